"""GDAL's warnings about a scene: each once, a few, as ours."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asd_cli.errors import RasterError
from asd_cli.raster.findings import BadBlock, Findings, FindingsOfAll
from asd_cli.raster.gdal import gdal_session
from asd_cli.raster.scene import Scene
from asd_cli.raster.windows import Window

Make = Callable[..., Path]


@pytest.fixture
def odd(make_raster: Make) -> Path:
    """A TIFF whose tags are out of order."""
    path = make_raster(np.ones((3, 40, 50), np.uint8))
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[start : start + 2])
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack("<H", data[entry : entry + 2]) == (0x0153,):
            data[entry : entry + 2] = struct.pack("<H", 0xC123)
    path.write_bytes(data)
    return path


def test_warnings_become_ours_once_a_scene(
    odd: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    everyones = FindingsOfAll()
    for _ in range(3):
        with Scene.open(odd, findings=everyones.of(str(odd))) as scene:
            scene.read(Window(0, 0, 40, 50))
    text = f"{odd}: TIFFReadDirectoryCheckOrder:Invalid TIFF directory; tags are not sorted in ascending order"
    assert caplog.messages == [text]
    assert caplog.records[0].levelno == logging.WARNING
    assert caplog.records[0].name.startswith("asd_cli.")
    assert capfd.readouterr() == ("", "")


def test_tiles_are_read_quietly(odd: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Scene.open(odd) as scene:
        scene.read(Window(0, 0, 40, 50))
    assert caplog.messages == []


def test_no_more_than_some(caplog: pytest.LogCaptureFixture) -> None:
    findings = Findings("s.tif", tell=True)
    log = logging.getLogger("rasterio._env")
    with gdal_session(hear=findings.hear):
        for number in range(20):
            log.warning("CPLE_AppDefined in s.tif: odd\n tag %s.", number % 9)
        log.info("GDAL signalled an error")
    assert caplog.messages == [
        *(f"s.tif: odd tag {number}" for number in range(5)),
        "s.tif: GDAL has more to warn of; see gdalinfo",
    ]


def test_bad_blocks_are_told_by_count(caplog: pytest.LogCaptureFixture) -> None:
    findings = Findings("s.tif", mask=True)
    findings.conclude(7)
    assert caplog.messages == []
    for col in (30, 10, 20, 0):
        findings.add_bad(BadBlock(0, col, 10, 10, (1,)))
    findings.conclude(7)
    places = "; ".join(f"cols {col}-{col + 9}, rows 0-9 of band 1" for col in (0, 10, 20))
    assert caplog.messages == [f"s.tif: 4 blocks cannot be read and count as nodata: {places}; and 1 more"]
    with pytest.raises(
        RasterError, match=r"^s.tif: 4 blocks cannot be read and count as nodata, which leaves no pixel"
    ):
        findings.conclude(0)
    for row in range(1, 2000):
        findings.add_bad(BadBlock(10 * row, 0, 10, 10, (1, 2, 3)))
    assert len(findings.tags()["ASD_BAD_BLOCKS"]) < 500
    assert len(findings.as_json()) == 1000
