"""Blocks that cannot be read: named to the block, or masked whole, whatever the windows."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.env import get_gdal_config

from asd_cli.errors import RasterError
from asd_cli.raster.context import read_with_halo
from asd_cli.raster.findings import BadBlock, Findings, overlap, without
from asd_cli.raster.gdal import gdal_session, open_raster
from asd_cli.raster.scene import Scene
from asd_cli.raster.windows import Window, write_windows

Make = Callable[..., Path]
TILED = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}


def spoil(path: Path, col: int, row: int, band: int = 1) -> None:
    """Overwrite the start of a block, counted in blocks, so that it cannot be decoded."""
    with open_raster(path) as dataset:
        offset = int(dataset.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=band))
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 16)


def image(rng: np.random.Generator, bands: int = 3, height: int = 400, width: int = 500) -> NDArray[np.uint8]:
    return rng.integers(1, 255, (bands, height, width), dtype=np.uint8)


def whole(scene: Scene) -> Window:
    return Window(0, 0, *scene.grid.shape)


def read_in_windows(path: Path, findings: Findings, size: int, halo: int = 5) -> NDArray[np.bool_]:
    """Validity of the scene, read window by window with a halo."""
    with Scene.open(path, findings=findings) as scene:
        valid = np.zeros(scene.grid.shape, np.bool_)
        for window in write_windows(*scene.grid.shape, size):
            chip = read_with_halo(scene, window, halo)
            inner = chip.valid[halo : halo + window.height, halo : halo + window.width]
            valid[window.row : window.row_stop, window.col : window.col_stop] = inner
    return valid


def refusal(path: Path | str, window: Window | None = None, **options: Any) -> str:
    with pytest.raises(RasterError) as caught, Scene.open(path, **options) as scene:
        scene.read(window or whole(scene))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_the_damaged_block_is_named(make_raster: Make, rng: np.random.Generator, interleave: str) -> None:
    path = make_raster(image(rng), interleave=interleave, **TILED)
    spoil(path, 2, 1, band=3 if interleave == "band" else 1)
    named = "band 3" if interleave == "band" else "bands 1, 2, 3"
    text = refusal(path)
    assert text.startswith(f"{path}: {named} cannot be read at cols 256-383, rows 128-255 (")
    assert text.endswith("; the file looks damaged, get it again")
    with Scene.open(path) as scene:  # beside it all is well
        assert scene.read(Window(0, 0, 128, 500)).valid.all()
    if interleave == "band":
        with Scene.open(path, bands=[2, 1]) as scene:
            assert scene.read(whole(scene)).valid.all()


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("size", [64, 150, 512])
def test_masked_blocks_do_not_depend_on_windows(
    make_raster: Make, rng: np.random.Generator, interleave: str, size: int
) -> None:
    path = make_raster(image(rng), interleave=interleave, **TILED)
    for col, row in ((0, 0), (2, 1), (3, 3)):
        spoil(path, col, row, band=2 if interleave == "band" else 1)
    expected = np.ones((400, 500), np.bool_)
    expected[:128, :128] = expected[128:256, 256:384] = expected[384:, 384:] = False
    findings = Findings(str(path), mask=True)
    np.testing.assert_array_equal(read_in_windows(path, findings, size), expected)
    bands = (2,) if interleave == "band" else (1, 2, 3)
    assert [(b.row, b.col, b.height, b.width, b.bands) for b in findings.bad_blocks()] == [
        (0, 0, 128, 128, bands), (128, 256, 128, 128, bands), (384, 384, 16, 116, bands),
    ]  # fmt: skip
    listed = f"cols 0-127, rows 0-127 of band{'s' if len(bands) > 1 else ''} {', '.join(map(str, bands))}; "
    assert findings.tags()["ASD_BAD_BLOCKS"].startswith(f"3: {listed}")


def test_pixels_around_masked_blocks_are_those_of_the_file(make_raster: Make, rng: np.random.Generator) -> None:
    values = image(rng)
    path = make_raster(values, **TILED)
    spoil(path, 1, 1)
    with Scene.open(path, findings=Findings(mask=True)) as scene:
        assert scene.may_have_invalid
        for box in (whole(scene), Window(-20, -20, 300, 300), Window(100, 100, 60, 40)):
            chip = scene.read(box)
            rows, cols = (np.abs(np.arange(s, e)) for s, e in ((box.row, box.row_stop), (box.col, box.col_stop)))
            expected = values[:, rows][:, :, cols].astype(np.float32) * chip.valid
            np.testing.assert_array_equal(chip.pixels, expected)
            bad = ((rows >= 128) & (rows < 256))[:, None] & ((cols >= 128) & (cols < 256))
            np.testing.assert_array_equal(chip.valid, ~bad)


def test_a_truncated_file_is_masked_to_its_end(make_raster: Make, rng: np.random.Generator) -> None:
    path = make_raster(image(rng, height=600))  # strips
    path.write_bytes(path.read_bytes()[: -500 * 3 * 100])
    findings = Findings(mask=True)
    valid = read_in_windows(path, findings, 128)
    with open_raster(path) as dataset:
        strip = dataset.block_shapes[0][0]
    first = int(np.argmin(valid.all(axis=1)))
    assert first % strip == 0
    assert 480 < first <= 500
    assert not valid[first:].any()
    assert len(findings.bad_blocks()) == -(-(600 - first) // strip)
    assert findings.as_json()[0] == {"col": 0, "row": first, "width": 500, "height": strip, "bands": [1, 2, 3]}
    assert findings.tags()["ASD_BAD_BLOCKS"].endswith(f"; and {len(findings.bad_blocks()) - 8} more")


def test_threads_with_readers_of_their_own_find_the_same(make_raster: Make, rng: np.random.Generator) -> None:
    path = make_raster(image(rng), **TILED)
    spoil(path, 1, 1)
    spoil(path, 2, 1)
    alone, shared = Findings(mask=True), Findings(mask=True)
    expected = read_in_windows(path, alone, 100)
    results: list[NDArray[np.bool_]] = []
    threads = [threading.Thread(target=lambda: results.append(read_in_windows(path, shared, 100))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for valid in results:
        np.testing.assert_array_equal(valid, expected)
    assert shared.bad_blocks() == alone.bad_blocks()


def test_a_damaged_mask_counts_too(make_raster: Make, rng: np.random.Generator) -> None:
    def mask(dataset: Any) -> None:
        dataset.write_mask(rng.integers(0, 2, (400, 500), dtype=np.uint8) * 255)

    path = make_raster(image(rng), env={"GDAL_TIFF_INTERNAL_MASK": False}, edit=mask, **TILED)
    side = path.with_name("scene.tif.msk")
    side.write_bytes(side.read_bytes()[:-4000])
    assert "cannot be read at cols" in refusal(path)
    results = []
    for size in (64, 128, 512):
        findings = Findings(mask=True)
        results.append((read_in_windows(path, findings, size).tobytes(), findings.tags()))
    assert results[0] == results[1] == results[2]
    assert results[0][1]


@pytest.fixture
def mosaic(make_raster: Make, rng: np.random.Generator, tmp_path: Path) -> Callable[..., Path]:
    """A VRT of left.tif (300 px wide) and right.tif (200 px), which may take a value of nodata away."""

    def make(nodata: int | None = None) -> Path:
        values = image(rng)
        make_raster(values[:, :, :300], "left.tif")
        make_raster(values[:, :, 300:], "right.tif", **TILED)
        kind, skip = ("SimpleSource", "") if nodata is None else ("ComplexSource", f"<NODATA>{nodata}</NODATA>")
        body = ""
        for band in (1, 2, 3):
            sources = "".join(
                f'<{kind}><SourceFilename relativeToVRT="1">{name}</SourceFilename><SourceBand>{band}</SourceBand>'
                f'<SrcRect xOff="0" yOff="0" xSize="{width}" ySize="400"/>'
                f'<DstRect xOff="{start}" yOff="0" xSize="{width}" ySize="400"/>{skip}</{kind}>'
                for name, start, width in (("left.tif", 0, 300), ("right.tif", 300, 200))
            )
            body += f'<VRTRasterBand dataType="Byte" band="{band}">{sources}</VRTRasterBand>'
        (tmp_path / "mosaic.vrt").write_text(f'<VRTDataset rasterXSize="500" rasterYSize="400">{body}</VRTDataset>')
        return tmp_path / "mosaic.vrt"

    return make


@pytest.mark.parametrize("nodata", [None, 0])
@pytest.mark.parametrize("nested", [False, True])
def test_a_missing_member_of_a_vrt(
    mosaic: Callable[..., Path], tmp_path: Path, *, nodata: int | None, nested: bool
) -> None:
    """GDAL tells of it once and gives zeros, or rubbish, from then on."""
    inner = mosaic(nodata)
    path = inner
    if nested:
        path = tmp_path / "outer.vrt"
        source = (
            '<SimpleSource><SourceFilename relativeToVRT="1">mosaic.vrt</SourceFilename><SourceBand>{}</SourceBand>'
        )
        bands = [f'<VRTRasterBand dataType="Byte" band="{b}">{source.format(b)}</SimpleSource>' for b in (1, 2, 3)]
        body = "".join(f"{band}</VRTRasterBand>" for band in bands)
        path.write_text(f'<VRTDataset rasterXSize="500" rasterYSize="400">{body}</VRTDataset>')
    member = tmp_path / "right.tif"
    member.unlink()
    text = refusal(path, Window(0, 0, 10, 10))  # although that window does not need it
    if nested:
        start = f"{path}: bands 1, 2, 3 cannot be read at cols 0-499, rows 0-399 ({inner}: its member {member}: "
    else:
        start = f"{path}: bands 1, 2, 3 cannot be read at cols 300-499, rows 0-399 ({member}: "
    assert text.startswith(f"{start}No such file or directory)")
    assert text.endswith("; put the missing file back")
    if not nested:
        for size in (64, 512):
            valid = read_in_windows(path, Findings(mask=True), size)
            assert valid[:, :300].all()
            assert not valid[:, 300:].any()


def test_what_is_no_member_or_only_gdal_can_open(mosaic: Callable[..., Path], tmp_path: Path) -> None:
    path = mosaic()
    text = path.read_text()
    overview = '<Overview><SourceFilename relativeToVRT="1">gone.ovr</SourceFilename></Overview></VRTRasterBand>'
    path.write_text(text.replace("</VRTRasterBand>", overview))
    with Scene.open(path) as scene:
        assert scene.read(whole(scene)).valid.all()
    (tmp_path / "right.tif").unlink()
    path.write_text(text.replace("<SourceBand>", '<OpenOptions><OOI key="X">1</OOI></OpenOptions><SourceBand>'))
    with Scene.open(path) as scene:  # it shows at the first read
        pass
    path.write_text(text.replace("right.tif", "GTIFF_DIR:1:right.tif"))
    assert "cannot be read at cols 256-383, rows 0-127" in refusal(path)


def test_a_member_that_is_no_raster(mosaic: Callable[..., Path], tmp_path: Path) -> None:
    path = mosaic(0)
    (tmp_path / "right.tif").write_bytes(b"")
    text = refusal(path)
    assert text.startswith(f"{path}: bands 1, 2, 3 cannot be read at cols 300-499, rows 0-399 ({tmp_path}/right.tif: ")
    assert "not recognized" in text


@pytest.mark.parametrize("nodata", [None, 0])
def test_a_damaged_member_is_masked_by_the_blocks_of_the_vrt(
    mosaic: Callable[..., Path], tmp_path: Path, nodata: int | None
) -> None:
    """Its blocks are 128 px, and a window that touches only the sound part of one must not take it for good."""
    path = mosaic(nodata)
    spoil(tmp_path / "right.tif", 1, 1)  # cols 428-499 of the mosaic, rows 128-255
    assert refusal(path).startswith(f"{path}: bands 1, 2, 3 cannot be read at cols 384-499, rows 128-255 (")
    expected = np.ones((400, 500), np.bool_)
    expected[128:256, 384:] = False
    for size in (50, 130, 512):
        findings = Findings(mask=True)
        np.testing.assert_array_equal(read_in_windows(path, findings, size), expected)
        assert [b.window for b in findings.bad_blocks()] == [Window(128, 384, 128, 116)]


SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

content, served, every = open(sys.argv[1], "rb").read(), int(sys.argv[2]), int(sys.argv[3])


class Flaky(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self):
        if not self.path.endswith("scene.tif"):
            return self.send_error(404)
        Flaky.asked += 1
        if Flaky.asked > served or Flaky.asked % every == 1:
            return self.send_error(503)
        start, stop, asked = 0, len(content), self.headers.get("Range")
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            start, stop = int(first), min(int(last) + 1, stop)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[start:stop])

    do_HEAD = do_GET


server = HTTPServer(("127.0.0.1", 0), Flaky)
print(server.server_port, flush=True)
server.serve_forever()
"""
"""A process of its own: rasterio holds Python's lock while GDAL lists files beside a scene."""


@pytest.fixture
def serve(make_raster: Make, rng: np.random.Generator) -> Iterator[Callable[[int, int], str]]:
    """Starts a server of scene.tif that answers 503 to its first and every n-th request, and to all after some."""
    path = make_raster(image(rng, height=900, width=900), **TILED)
    processes: list[subprocess.Popen[str]] = []

    def start(served: int, every: int) -> str:
        command = [sys.executable, "-c", SERVER, str(path), str(served), str(every)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        processes.append(process)
        assert process.stdout is not None
        return f"/vsicurl/http://127.0.0.1:{int(process.stdout.readline())}/scene.tif"

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_server_that_fails_now_and_then(
    serve: Callable[[int, int], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.05")
    with Scene.open(tmp_path / "scene.tif") as local:
        expected = local.read(whole(local)).pixels
    with Scene.open(serve(10**6, 3)) as scene:
        np.testing.assert_array_equal(scene.read(whole(scene)).pixels, expected)


def test_a_server_that_goes_down(serve: Callable[[int, int], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "1")
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.01")
    text = refusal(serve(4, 3))
    assert "scene.tif: cannot be opened" in text or "scene.tif: bands 1, 2, 3 cannot be read at cols 0-127" in text


def test_retries_are_set_while_gdal_is_at_work_only(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("GDAL_HTTP_MAX_RETRY", "GDAL_HTTP_RETRY_DELAY")
    assert [get_gdal_config(name) for name in names] == [None, None]
    with gdal_session():
        assert [str(get_gdal_config(name)) for name in names] == ["5", "0.5"]
    assert [get_gdal_config(name) for name in names] == [None, None]
    monkeypatch.setenv(names[0], "2")
    with gdal_session():
        assert [str(get_gdal_config(name)) for name in names] == ["2", "0.5"]


boxes = st.builds(Window, st.integers(-3, 9), st.integers(-3, 9), st.integers(1, 6), st.integers(1, 6))


@given(box=boxes, holes=st.lists(boxes, max_size=5))
def test_what_is_left_of_a_box(box: Window, holes: list[Window]) -> None:
    def pixels(window: Window) -> list[tuple[int, int]]:
        return list(product(range(window.row, window.row_stop), range(window.col, window.col_stop)))

    found = [pixel for part in without(box, holes) for pixel in pixels(part)]
    expected = set(pixels(box)) - {pixel for hole in holes for pixel in pixels(hole)}
    assert sorted(found) == sorted(expected)  # each once
    for hole in holes:
        both = overlap(box, hole)
        assert set(pixels(both) if both else []) == set(pixels(box)) & set(pixels(hole))


def test_bands_of_one_block_are_joined() -> None:
    findings = Findings(mask=True)
    findings.add_bad(BadBlock(0, 0, 5, 5, (2,), "a"))
    findings.add_bad(BadBlock(0, 0, 5, 5, (1, 2), "b"))
    assert [block.bands for block in findings.bad_blocks()] == [(1, 2)]
    assert Findings().tags() == {}
