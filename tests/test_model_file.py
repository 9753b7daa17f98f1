"""The model file: same content, same bytes; anything else than a whole file of ours is one line of `ModelFileError`."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from asd_cli import __version__
from asd_cli.errors import ModelFileError
from asd_cli.model_file import model_header, read_model, write_model

PARTS = {
    "method": {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "steps": np.array(3, np.int64)},
    "moments": {"mean": np.array([0.1, 0.2])},
}


def header(**changes: Any) -> dict[str, Any]:
    bands = {"count": 2, "indexes": [1, 3], "names": ["red", "blue"], "of": 3}
    fields = {"method": "asd", "config": {"length": 5}, "bands": bands, "normal": ["forest"], "pixel_size_m": 0.5}
    return model_header(**{**fields, **changes})


def test_round_trip(tmp_path: Path) -> None:
    write_model(tmp_path / "m", header(), PARTS)
    file = read_model(tmp_path / "m")
    assert {key: value for key, value in file.header.items() if key != "digest"} == header()
    assert file.header["asd_version"] == __version__
    for prefix, part in PARTS.items():
        assert file.part(prefix).keys() == part.keys()
        for key, value in part.items():
            assert file.part(prefix)[key].dtype == value.dtype
            assert file.part(prefix)[key].shape == value.shape
            np.testing.assert_array_equal(file.part(prefix)[key], value)


def test_same_content_same_bytes(tmp_path: Path) -> None:
    write_model(tmp_path / "one", header(), PARTS)
    other_order = {prefix: dict(reversed(part.items())) for prefix, part in reversed(PARTS.items())}
    fortran = other_order | {"method": other_order["method"] | {"weight": np.asfortranarray(PARTS["method"]["weight"])}}
    write_model(tmp_path / "two", dict(reversed(header().items())), fortran)
    write_model(tmp_path / "again", read_model(tmp_path / "one").header, PARTS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == (tmp_path / "again").read_bytes()
    assert read_model(tmp_path / "one").sha256 == read_model(tmp_path / "two").sha256


def test_mode_follows_the_umask(tmp_path: Path) -> None:
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            write_model(tmp_path / f"{mask}", header(), PARTS)
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / f"{mask}").stat().st_mode) == mode


def with_text(text: str) -> bytes:
    return save({"method.weight": np.zeros(2, np.float32)}, metadata={"asd": text})


def changed(**changes: Any) -> bytes:
    return with_text(json.dumps({**header(), "digest": "0", **changes}))


BANDS = header()["bands"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not a model file, or cut off"),
        (b"1234567", "not a model file, or cut off"),
        (b"\xff" * 500, "not a model file, or cut off"),
        ((2**40).to_bytes(8, "little") + b"{}" * 50, "not a model file, or cut off"),
        ((100).to_bytes(8, "little") + b"[" * 100, "unreadable header"),
        ((2).to_bytes(8, "little") + b"[]", "unreadable header"),
        ((20).to_bytes(8, "little") + b'{"__metadata__": 1 }', "unreadable header"),
        ((2).to_bytes(8, "little") + b"{}", "a safetensors file, but not one that asd wrote"),
        (save({"x": np.zeros(3)}), "a safetensors file, but not one that asd wrote"),
        (with_text("[1]"), "a safetensors file, but not one that asd wrote"),
        (with_text("{"), "unreadable header"),
        (changed(format="other"), "a safetensors file, but not one that asd wrote"),
        (
            changed(format_version=99),
            rf"model format 99, this asd \({__version__}\) reads format 1; install a matching",
        ),
        (changed(method=3), "the model header has no valid 'method'"),
        (changed(config=None), "the model header has no valid 'config'"),
        (changed(normal="forest"), "the model header has no valid 'normal'"),
        (changed(normal=[1]), "the model header has no valid 'normal'"),
        (changed(bands={}), "the model header has no valid 'bands.count'"),
        (changed(bands=BANDS | {"count": 10**9}), "the model header has no valid 'bands.count'"),
        (changed(bands=BANDS | {"count": True}), "the model header has no valid 'bands.count'"),
        (changed(bands=BANDS | {"indexes": [1]}), "the model header has no valid 'bands.indexes'"),
        (changed(bands=BANDS | {"names": None}), "the model header has no valid 'bands.names'"),
        (changed(bands=BANDS | {"of": "3"}), "the model header has no valid 'bands.of'"),
        (changed(pixel_size_m="1 m"), "the model header has no valid 'pixel_size_m'"),
        (changed(pixel_size_m=float("nan")), "the model header has no valid 'pixel_size_m'"),
        (changed(training=[]), "the model header has no valid 'training'"),
        (changed(digest=None), "the model header has no valid 'digest'"),
        (changed(), r"damaged model file \(it is not as it was written\); get it again"),
    ],
)
def test_odd_files(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=f"^{path}: .*{text}") as caught:
        read_model(path)
    assert "\n" not in str(caught.value)


def test_missing_folder_and_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(ModelFileError, match=f"{path}: no such model file"):
            read_model(path)
    path = tmp_path / "m"
    path.touch()

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ModelFileError, match=r"/m: cannot be read \(Permission denied\)"):
        read_model(path)


def test_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(ModelFileError, match=f"{2**31} bytes is too large for a model file"):
        read_model(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite(tmp_path: Path, value: float) -> None:
    write_model(tmp_path / "m", header(), {"method": {"weight": np.array([1, value], np.float32)}})
    with pytest.raises(ModelFileError, match=r"tensor method\.weight holds values that are not finite; train again"):
        read_model(tmp_path / "m")


def test_a_file_of_another_program(tmp_path: Path) -> None:
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "other.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFileError, match="a safetensors file, but not one that asd wrote"):
        read_model(tmp_path / "other.safetensors")


@pytest.fixture(scope="module")
def scratch(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], Path]:
    path = tmp_path_factory.mktemp("scratch") / "model.safetensors"
    shutil.copy(tiny_model, path)

    def write(content: bytes) -> Path:
        path.write_bytes(content)
        return path

    return write


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damage_is_always_one_line(tiny_model: Path, scratch: Callable[[bytes], Path], data: st.DataObject) -> None:
    from asd_cli.workflows.models import load_model

    whole = bytearray(tiny_model.read_bytes())
    size = len(whole)
    # most bytes are weights; the header deserves as many tries
    places = st.one_of(st.integers(0, size - 1), st.integers(0, 7), st.integers(8, 4000))
    if data.draw(st.booleans(), label="cut"):
        content = bytes(whole[: data.draw(places, label="length")])
    else:
        for place in data.draw(st.lists(places, min_size=1, max_size=4, unique=True), label="flips"):
            whole[place] ^= data.draw(st.integers(1, 255), label="bits")
        content = bytes(whole)
    try:
        model = load_model(scratch(content))
    except ModelFileError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:  # one kind of blank for another
        assert model.header == load_model(tiny_model).header
