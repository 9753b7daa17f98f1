"""`--mask` and `--area`: from the names that a user gives to readers of the marked pixels of a scene."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from asd_cli.errors import InputError
from asd_cli.options import PredictOptions
from asd_cli.raster.context import ChipReader, read_margin
from asd_cli.raster.findings import overlap
from asd_cli.raster.grid import Grid
from asd_cli.raster.masks import MarkReader, MaskedScene, RasterMarks, SceneMasks
from asd_cli.raster.scene import Scene
from asd_cli.raster.windows import Window
from asd_cli.staging import check_not_read
from asd_cli.vector.areas import PolygonMarks
from asd_cli.vector.label_polygons import is_vector
from asd_cli.workflows.jobs import stem_of

_NAME = "{name}"
_log = logging.getLogger(__name__)


def masked_readers(
    scene: Scene, options: PredictOptions, open_scene: Callable[[], Scene], halo: int
) -> Callable[[], AbstractContextManager[ChipReader]]:
    """What opens a reader of the scene with the masks that the options name; polygons are read once, here. Blocks that
    no score with this `halo` depends on may be damaged.

    Raises:
        InputError: a mask cannot be read or does not fit the scene.
    """
    if options.mask is None and options.area is None:
        return open_scene
    masks = SceneMasks(
        *(None if given is None else _opener(given, scene.path, scene.grid) for given in (options.mask, options.area))
    )
    around = read_margin(halo, holes=options.mask is not None or scene.may_have_invalid)
    whole = Window(0, 0, *scene.grid.shape)

    def concerns(block: Window) -> bool:
        near = overlap(block.expand(around), whole)
        return near is not None and masks.any_usable(near)

    scene.findings.limit(concerns)
    return lambda: MaskedScene(open_scene(), masks)


def check_masks(scene: Scene, options: PredictOptions, targets: Iterable[Path]) -> None:
    """Refuse masks that cannot be used on a scene, or that are targets; before any work.

    Raises:
        InputError: one cannot be.
    """
    for given in (options.mask, options.area):
        if given is not None:
            name = _for_scene(given, scene.path)
            check_not_read(targets, [name.partition("|")[0]])
            marks = _opener(given, scene.path, scene.grid)()
            marks.close()
            if given is options.area and isinstance(marks, PolygonMarks) and marks.empty:
                _log.warning("%s: none of its polygons is near %s; its map will be empty", name, scene.path)


def mask_files(options: PredictOptions, scene: str) -> list[str]:
    """The files that the masks of a scene lie in."""
    given = (options.mask, options.area)
    return [_for_scene(name, scene).partition("|")[0] for name in given if name is not None]


def mask_tags(options: PredictOptions, scene: str) -> dict[str, str]:
    """For the record in the map: names of the masks."""
    named = {"ASD_MASK": options.mask, "ASD_AREA": options.area}
    return {tag: Path(_for_scene(given, scene)).name for tag, given in named.items() if given is not None}


def _for_scene(given: str, scene: str) -> str:
    """``{name}`` in a mask's name stands for that of the scene."""
    return given.replace(_NAME, stem_of(scene))


def _opener(given: str, scene: str, grid: Grid) -> Callable[[], MarkReader]:
    if not given:
        raise InputError("--mask, --area: the name is empty (an unset variable?); name a raster or a polygon file")
    name = _for_scene(given, scene)
    if is_vector(name):
        polygons = PolygonMarks(name, grid, scene)
        return lambda: polygons
    return lambda: RasterMarks(name, grid, scene)
