from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from asd_cli.data.classes import ClassTable, scan_classes
from asd_cli.data.discovery import discover_tiles
from asd_cli.errors import LabelError
from asd_cli.raster.gdal import open_raster

RED = 255 << 16
SHAPE = (20, 30)


def write(path: Path, pixels: NDArray[Any], palette: Mapping[int, Any] | None = None, **options: Any) -> None:
    bands = pixels if pixels.ndim == 3 else pixels[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    driver = "PNG" if path.suffix == ".png" else "GTiff"
    size = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
    with open_raster(path, "w", driver=driver, dtype=bands.dtype, **size, **options) as dataset:
        dataset.write(bands)
        if palette:
            dataset.write_colormap(1, palette)


def labelled(folder: Path, label: NDArray[Any], name: str = "a", **options: Any) -> None:
    """A tile in images/ and its label in masks/."""
    write(folder / "images" / f"{name}.tif", np.ones(label.shape[-2:], np.uint8))
    write(folder / "masks" / f"{name}.png", label, **options)


def halves(left: int, right: int) -> NDArray[np.uint8]:
    label = np.full(SHAPE, right, np.uint8)
    label[:, :15] = left
    return label


def colours(left: tuple[int, ...], right: tuple[int, ...]) -> NDArray[np.uint8]:
    label = np.empty((3, *SHAPE), np.uint8)
    label[:] = np.array(right)[:, None, None]
    label[:, :, :15] = np.array(left)[:, None, None]
    return label


def scan(folder: Path) -> ClassTable:
    return scan_classes(discover_tiles([str(folder)]))


def found(table: ClassTable) -> dict[str, int]:
    return {table.name(code): table.pixels[code] for code in table.found}


def test_numbers_are_names_where_there_are_no_others(tmp_path: Path) -> None:
    labelled(tmp_path, halves(1, 2))
    labelled(tmp_path, halves(7, 2), "b")
    steps: list[tuple[int, int]] = []
    tiles = discover_tiles([str(tmp_path)])
    table = scan_classes(tiles, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 2), (2, 2)]
    assert found(table) == {"1": 300, "2": 600, "7": 300}
    assert table.by_tile == {tiles[0].path: {1: 300, 2: 300}, tiles[1].path: {2: 300, 7: 300}}
    assert table.resolve(["1", " 7 "]) == {1, 7}


@pytest.mark.parametrize("place", [".", "masks", "images"])
def test_names_from_classes_csv(tmp_path: Path, place: str) -> None:
    labelled(tmp_path, halves(1, 2))
    (tmp_path / place / "classes.csv").write_text("1,Forest\n2,Water\n3,Snow\n")
    table = scan(tmp_path)
    assert found(table) == {"Forest": 300, "Water": 300}
    assert table.resolve(["forest"]) == {1}
    assert table.resolve(["2"]) == {2}


def test_several_codes_of_one_name(tmp_path: Path) -> None:
    labelled(tmp_path, halves(1, 2))
    (tmp_path / "classes.csv").write_text("1,forest\n2,forest\n")
    assert scan(tmp_path).resolve(["forest"]) == {1, 2}


def test_unknown_names_list_what_there_is_and_the_nearest(tmp_path: Path) -> None:
    labelled(tmp_path, halves(1, 2))
    (tmp_path / "classes.csv").write_text("1,forest\n2,water\n3,snow\n")
    table = scan(tmp_path)
    with pytest.raises(
        LabelError, match=r"^--normal forrest: no such class; found: forest, water \(nearest: forest\)$"
    ):
        table.resolve(["forrest"])
    with pytest.raises(LabelError, match=r"^--normal snow: no pixel is of this class; found: forest, water$"):
        table.resolve(["snow"])
    with pytest.raises(LabelError, match=r"^--ignore-label 9x: no such class; found: forest, water$"):
        table.resolve(["9x"], option="--ignore-label", known_suffices=True)
    assert table.resolve(["snow", "9", "-1", "water"], known_suffices=True) == {3, 9, -1, 2}


def test_at_most_twenty_classes_are_listed() -> None:
    table = ClassTable(pixels=dict.fromkeys(range(30), 1))
    with pytest.raises(LabelError, match=r"--normal x: no such class; found: 0, 1, .*, 19 and 10 more$"):
        table.resolve(["x"])


def test_of_many_classes_the_largest_are_listed() -> None:
    table = ClassTable(pixels={code: code for code in range(1, 31)} | {99: 0})
    assert table.listed() == ", ".join(str(code) for code in range(30, 10, -1)) + " and 10 more"
    assert ClassTable(pixels={2: 1, 1: 9}).listed() == "1, 2"
    assert ClassTable(pixels={0: 1, RED: 1}, colours=True).listed() == "0,0,0; 255,0,0"
    assert ClassTable().listed() == "none"


def test_whether_a_pixel_is_of_a_class() -> None:
    table = ClassTable(names={1: "Forest", 2: "snow"}, pixels={1: 5, 7: 1}, palette={1: RED})
    assert all(table.has(name) for name in ("forest", " FOREST ", "7"))
    assert not any(table.has(name) for name in ("snow", "1", "2", "8", "#ff0000"))


def test_nodata_of_the_labels_is_hinted_at(tmp_path: Path) -> None:
    labelled(tmp_path, halves(0, 1), nodata=0)
    with pytest.raises(LabelError, match=r"--normal 0: no such class; found: 1; 0 is nodata in .*masks/a\.png"):
        scan(tmp_path).resolve(["0"])


def test_colour_images(tmp_path: Path) -> None:
    labelled(tmp_path, colours((255, 0, 0), (0, 0, 0)))
    table = scan(tmp_path)
    assert found(table) == {"0,0,0": 300, "255,0,0": 300}
    for name in ("255,0,0", "255, 0, 0", "(255,0,0)", "#FF0000"):
        assert table.resolve([name]) == {RED}
    with pytest.raises(LabelError, match=r"--normal 1: no such class; found: 0,0,0; 255,0,0"):
        table.resolve(["1"])
    (tmp_path / "masks" / "classes.csv").write_text("r,g,b,name\n255,0,0,slide\n")
    table = scan(tmp_path)
    assert found(table) == {"0,0,0": 300, "slide": 300}
    assert table.resolve(["slide"]) == table.resolve(["255,0,0"]) == {RED}


def test_grey_colour_images_go_by_colour(tmp_path: Path) -> None:
    labelled(tmp_path, colours((255, 255, 255), (0, 0, 0)))
    assert found(scan(tmp_path)) == {"0,0,0": 300, "255,255,255": 300}


PALETTE = {0: (0, 0, 0, 255), 1: (255, 0, 0, 255), 2: (0, 128, 0, 255)}


def test_names_from_colour_tables(tmp_path: Path) -> None:
    labelled(tmp_path, halves(1, 2), palette=PALETTE)
    table = scan(tmp_path)
    assert found(table) == {"#ff0000": 300, "#008000": 300}
    assert table.resolve(["#FF0000"]) == table.resolve(["255,0,0"]) == table.resolve(["1"]) == {1}


def test_classes_of_equal_colour_go_by_number(tmp_path: Path) -> None:
    labelled(tmp_path, halves(1, 2), palette=PALETTE | {2: PALETTE[1]})
    table = scan(tmp_path)
    assert found(table) == {"1": 300, "2": 300}
    assert table.resolve(["#ff0000"]) == {1, 2}


def test_category_names_come_before_colours(tmp_path: Path) -> None:
    labelled(tmp_path, halves(1, 2), palette=PALETTE)
    labelled(tmp_path, halves(1, 2), "b", palette=PALETTE)  # has colours only
    names = "".join(f"<Category>{name}</Category>" for name in ("none", "forest", "water"))
    band = f'<PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames></PAMRasterBand>'
    (tmp_path / "masks" / "a.png.aux.xml").write_text(f"<PAMDataset>{band}</PAMDataset>")
    table = scan(tmp_path)
    assert found(table) == {"forest": 600, "water": 600}
    assert table.resolve(["#ff0000"]) == {1}


def test_colour_tables_that_contradict_each_other(tmp_path: Path) -> None:
    labelled(tmp_path, halves(1, 2), palette=PALETTE)
    labelled(tmp_path, halves(1, 2), "b", palette=PALETTE | {1: PALETTE[2], 2: PALETTE[1]})
    message = r"b\.png: class 1 is '#008000' here, but '#ff0000' in .*a\.png; tell the names in a classes\.csv"
    with pytest.raises(LabelError, match=message):
        scan(tmp_path)
    (tmp_path / "classes.csv").write_text("r,g,b,name\n255,0,0,slide\n0,128,0,forest\n")
    table = scan(tmp_path)
    assert found(table) == {"forest": 600, "slide": 600}
    assert table.resolve(["slide"]) == {RED}
    (tmp_path / "classes.csv").write_text("1,one\n2,two\n")
    assert found(scan(tmp_path)) == {"one": 600, "two": 600}


def test_labels_of_two_kinds_are_an_error(tmp_path: Path) -> None:
    labelled(tmp_path, halves(1, 2))
    labelled(tmp_path, colours((1, 2, 3), (0, 0, 0)), "b")
    with pytest.raises(
        LabelError, match=r"b\.png is a colour image, but .*a\.png holds class numbers; make the labels"
    ):
        scan(tmp_path)


def test_classes_csv_of_the_other_kind_is_an_error(tmp_path: Path) -> None:
    labelled(tmp_path, colours((255, 0, 0), (0, 0, 0)))
    (tmp_path / "classes.csv").write_text("1,slide\n")
    message = r"classes\.csv: does not fit .*a\.png, which is a colour image; its columns must be r,g,b,name"
    with pytest.raises(LabelError, match=message):
        scan(tmp_path)


def test_folders_are_classes(tmp_path: Path) -> None:
    for name in ("2", "forest"):
        write(tmp_path / name / "a.tif", halves(1, 2))
    table = scan(tmp_path)
    assert found(table) == {"2": 600, "forest": 600}
    assert table.resolve(["Forest"]) == {2}
    assert table.resolve(["2"]) == {1}  # the name of the folder, not the code


def test_no_labels_at_all(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", halves(1, 2))
    table = scan(tmp_path)
    assert not table.labelled
    assert table.pixels == {0: 600}
