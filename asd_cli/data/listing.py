"""Folders of rasters, local or in GDAL's virtual file systems: only names are read, no raster is opened."""

from __future__ import annotations

import fnmatch
from functools import cached_property
from pathlib import Path, PurePosixPath

import pyogrio

RASTER_SUFFIXES = frozenset(
    (".tif", ".tiff", ".vrt", ".img", ".dat", ".bil", ".bsq", ".bip", ".jp2", ".j2k", ".png", ".jpg", ".jpeg")
)
_ENVI_SUFFIXES = frozenset(("", ".bin", ".raw"))  # rasters only when a header lies beside them
_SIDE_SUFFIXES = frozenset(
    (
        *(".hdr", ".ovr", ".msk", ".xml", ".csv", ".txt", ".json", ".prj", ".sta", ".enp"),
        *(".tfw", ".wld", ".pgw", ".jgw", ".j2w", ".tifw", ".pngw", ".jpgw"),
    )
)
_REMOTE = (
    "/vsicurl",
    "/vsis3",
    "/vsigs",
    "/vsiaz",
    "/vsiadls",
    "/vsioss",
    "/vsiswift",
    "/vsihdfs",
    "/vsiwebhdfs",
)


def is_vsi(path: str) -> bool:
    """Whether `path` belongs to one of GDAL's virtual file systems (``/vsizip/``, ``/vsicurl/`` ...)."""
    return path.startswith("/vsi")


def is_side_file(name: str) -> bool:
    """Whether a file of this name only accompanies rasters (headers, overviews, notes) or is half-written."""
    return name.startswith(".") or ".part." in name or PurePosixPath(name).suffix.lower() in _SIDE_SUFFIXES


def stem_of(name: str) -> str:
    """The name without its last suffix, when that is a raster's: ``a.tiff_29.tiff`` -> ``a.tiff_29``."""
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if suffix.lower() in RASTER_SUFFIXES else name


def join(folder: str, name: str) -> str:
    """`name` inside `folder`, with single slashes between the two."""
    return f"{folder.rstrip('/')}/{name}" if folder not in ("", ".") else name


def parent_of(path: str) -> str:
    """The folder that `path` lies in; ``.`` for a bare name."""
    return str(PurePosixPath(path).parent) if not is_vsi(path) else path.rstrip("/").rpartition("/")[0]


class Folder:
    """One folder, listed once when first asked: names of its files, rasters and sub-folders, each sorted."""

    def __init__(self, path: str) -> None:
        self.path = path

    @cached_property
    def _names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(files, sub-folders), hidden ones left out; both empty when there is no such folder."""
        if is_vsi(self.path):
            return _vsi_names(self.path)
        files: list[str] = []
        folders: list[str] = []
        if Path(self.path).is_dir():
            for entry in Path(self.path).iterdir():
                if not entry.name.startswith("."):
                    (folders if entry.is_dir() else files).append(entry.name)
        return tuple(sorted(files)), tuple(sorted(folders))

    @property
    def exists(self) -> bool:
        """Whether there is anything here to list (an empty local folder exists, too)."""
        return any(self._names) or (not is_vsi(self.path) and Path(self.path).is_dir())

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files that are not hidden."""
        return self._names[0]

    @cached_property
    def rasters(self) -> tuple[str, ...]:
        """Names of the files that are rasters by their suffix, or by an ENVI header beside them."""
        headers = {name.lower() for name in self.files if name.lower().endswith(".hdr")}
        return tuple(name for name in self.files if not is_side_file(name) and _is_raster(name, headers))

    @cached_property
    def by_stem(self) -> dict[str, tuple[str, ...]]:
        """Raster names by their stems."""
        groups: dict[str, tuple[str, ...]] = {}
        for name in self.rasters:
            groups[stem_of(name)] = (*groups.get(stem_of(name), ()), name)
        return groups

    @property
    def folders(self) -> tuple[str, ...]:
        """Names of the sub-folders that are not hidden."""
        return self._names[1]


class Listing:
    """Folders by path, each read from the file system at most once."""

    def __init__(self) -> None:
        self._folders: dict[str, Folder] = {}

    def folder(self, path: str) -> Folder:
        """The folder at `path`; it need not exist."""
        return self._folders.setdefault(path.rstrip("/") or "/", Folder(path.rstrip("/") or "/"))


def expand_glob(pattern: str) -> list[str]:
    """Files and folders that match ``*``, ``?``, ``[...]`` and ``**``, sorted; hidden ones never match.

    Inside ``/vsi...`` paths only the last part may hold wildcards.
    """
    if is_vsi(pattern):
        folder = Folder(parent_of(pattern))
        names = fnmatch.filter((*folder.files, *folder.folders), pattern.rpartition("/")[2])
        return sorted(join(folder.path, name) for name in names)
    parts = Path(pattern).parts
    first = next(index for index, part in enumerate(parts) if has_wildcard(part))
    root = Path(*parts[:first])
    matches = root.glob(str(Path(*parts[first:])))
    kept = (path for path in matches if not any(part.startswith(".") for part in path.relative_to(root).parts))
    return sorted({path.as_posix() for path in kept})


def has_wildcard(text: str) -> bool:
    """Whether `text` holds a wildcard of the shell."""
    return any(character in text for character in "*?[")


def _is_raster(name: str, headers: set[str]) -> bool:
    """`headers`: the lower-case names of the ENVI headers in the same folder."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in RASTER_SUFFIXES:
        return True
    lower = name.lower()
    stem_header = f"{lower.removesuffix(suffix)}.hdr"
    return f"{lower}.hdr" in headers or (suffix in _ENVI_SUFFIXES and stem_header in headers)


def _vsi_names(path: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Direct children of a virtual folder, as (files, folders); none in remote stores, too large to walk."""
    if path.startswith(_REMOTE):
        return (), ()
    try:
        tree = pyogrio.vsi_listtree(path)
    except (OSError, RuntimeError, ValueError):
        return (), ()
    files: set[str] = set()
    folders: set[str] = set()
    for entry in tree:
        head, slash, _ = entry.removeprefix(path).lstrip("/").partition("/")
        if head and not head.startswith("."):
            (folders if slash else files).add(head)
    return tuple(sorted(files)), tuple(sorted(folders))
