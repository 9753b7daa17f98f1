from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from asd_cli.data.discovery import TileSource, discover_tiles
from asd_cli.data.listing import stem_of
from asd_cli.errors import LabelError, RasterError
from asd_cli.vector.labels import LabelSource


def touch(folder: Path, *names: str) -> None:
    """Empty files: discovery goes by names only."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(folder: Path, *paths: str, **options: object) -> list[tuple[str, str | None, str | None]]:
    """(tile, label, class) with paths relative to `folder`."""
    tiles = discover_tiles([str(folder / path) for path in paths] or [str(folder)], **options)  # type: ignore[arg-type]
    return [
        (
            Path(tile.path).relative_to(folder).as_posix(),
            Path(tile.label.path).relative_to(folder).as_posix() if tile.label else None,
            tile.folder_class,
        )
        for tile in tiles
    ]


def test_stem_loses_the_last_raster_suffix_only() -> None:
    assert stem_of("Amazon_1279.tiff_29.tiff") == "Amazon_1279.tiff_29"
    assert stem_of("scene.v2") == "scene.v2"
    assert stem_of("A.TIF") == "A"


def test_folder_of_all_raster_kinds_sorted_without_side_files(tmp_path: Path) -> None:
    rasters = [
        "B.TIF",
        "a.tiff",
        "c.vrt",
        "d.img",
        "e.jp2",
        "f.png",
        "g.jpeg",
        "h.JPG",
        "i.bsq",
        "envi",
        "raw.bin",
    ]
    touch(tmp_path, *rasters, "envi.hdr", "raw.hdr", "i.hdr")
    touch(
        tmp_path,
        "a.tiff.aux.xml",
        "a.tiff.msk",
        "a.tiff.ovr",
        "a.tfw",
        ".hidden.tif",
        "x.part.tif",
        "SOURCE.txt",
    )
    touch(tmp_path, "no_header", "other.bin")
    assert found(tmp_path) == [(name, None, None) for name in sorted(rasters)]


def test_files_globs_and_folders_give_each_tile_once(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.tif", "x/b.tif", "x/notes.txt", "x/y/c.tif", "x/y/[1].tif", "x/.hid/d.tif")
    assert [tile for tile, _, _ in found(tmp_path, "x", "x/a.tif", "x/?.tif", "x/y/[[]1].tif", "x/y/[1].tif")] == [
        "x/a.tif",
        "x/b.tif",
        "x/y/[1].tif",
    ]
    assert [tile for tile, _, _ in found(tmp_path, "x/**/*.tif")] == [
        "x/a.tif",
        "x/b.tif",
        "x/y/[1].tif",
        "x/y/c.tif",
    ]
    assert [tile for tile, _, _ in found(tmp_path, "x/*")] == [
        "x/a.tif",
        "x/b.tif",
        "x/y/[1].tif",
        "x/y/c.tif",
    ]
    assert [tile for tile, _, _ in found(tmp_path, "x", "x/y", exclude=["b.*", "*/y/*"])] == ["x/a.tif"]


def test_side_files_that_the_shell_expands_to_are_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "a.tif", "a.tif.aux.xml", "classes.csv", "a_label.tif")
    names = ["a.tif", "a.tif.aux.xml", "classes.csv", "a_label.tif"]
    assert found(tmp_path, *names) == [("a.tif", "a_label.tif", None)]


def test_paths_without_rasters_are_errors(tmp_path: Path) -> None:
    touch(tmp_path, "empty/readme.md")
    with pytest.raises(RasterError, match=r"nowhere: no such file or folder"):
        found(tmp_path, "nowhere")
    with pytest.raises(RasterError, match=r"\*\.tif: no raster or folder matches this pattern"):
        found(tmp_path, "*.tif")
    with pytest.raises(RasterError, match=r"empty: holds no rasters \(.tif, .+ENVI \.\.\.\), neither itself nor in"):
        found(tmp_path, "empty")


@pytest.mark.parametrize("labels", ["labels", "Masks", "label", "mask", "gt"])
def test_images_beside_labels(tmp_path: Path, labels: str) -> None:
    touch(
        tmp_path,
        "images/Amazon_1.tiff_2.tiff",
        f"{labels}/Amazon_1.tiff_2.png",
        "images/b.tif",
        f"{labels}/b_mask.tif",
    )
    pairs = [
        ("images/Amazon_1.tiff_2.tiff", f"{labels}/Amazon_1.tiff_2.png", None),
        ("images/b.tif", f"{labels}/b_mask.tif", None),
    ]
    assert found(tmp_path) == pairs
    assert found(tmp_path, "images") == pairs
    assert found(tmp_path, "images/b.tif") == pairs[1:]
    assert found(tmp_path, "images/*.tif*") == pairs


def test_images_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "images/a.tif", "masks/a.png")
    monkeypatch.chdir(tmp_path)
    assert discover_tiles(["."]) == [TileSource("images/a.tif", LabelSource("masks/a.png"))]
    assert discover_tiles(["images/"]) == [TileSource("images/a.tif", LabelSource("masks/a.png"))]
    monkeypatch.chdir(tmp_path / "images")
    assert discover_tiles(["a.tif"]) == [TileSource("a.tif", LabelSource("../masks/a.png"))]


def test_labels_inside_the_folder_of_the_tiles(tmp_path: Path) -> None:
    touch(tmp_path, "a.tif", "masks/a.png")
    assert found(tmp_path) == [("a.tif", "masks/a.png", None)]


@pytest.mark.parametrize("ending", ["_label", "_labels", "_mask", "_GT"])
def test_labels_beside_tiles_are_never_tiles(tmp_path: Path, ending: str) -> None:
    touch(tmp_path, "a.tif", f"a{ending.lower()}.png")
    assert found(tmp_path) == [("a.tif", f"a{ending.lower()}.png", None)]
    assert found(tmp_path, "*") == [("a.tif", f"a{ending.lower()}.png", None)]


def test_label_without_its_tile_is_skipped_unless_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.tif", "b_mask.tif")
    with caplog.at_level(logging.WARNING):
        assert found(tmp_path) == [("a.tif", None, None)]
    assert "b_mask.tif: named like a label, but there is no tile of that name; skipped" in caplog.text
    assert found(tmp_path, "b_mask.tif") == [("b_mask.tif", None, None)]


def test_one_folder_per_class(tmp_path: Path) -> None:
    touch(tmp_path, "tiles/forest/a.tif", "tiles/other/a.tif", "tiles/empty/notes.md")
    classed = [("tiles/forest/a.tif", None, "forest"), ("tiles/other/a.tif", None, "other")]
    assert found(tmp_path, "tiles") == classed


def test_folders_given_one_by_one_are_classes_if_one_is_named_normal(tmp_path: Path) -> None:
    touch(tmp_path, "forest/a.tif", "other/a.tif")
    classed = [("forest/a.tif", None, "forest"), ("other/a.tif", None, "other")]
    assert found(tmp_path, "forest", "other", normal=["Forest"]) == classed
    assert found(tmp_path, "*/*.tif", normal=["forest"]) == classed
    assert found(tmp_path, "forest", "other", normal=["trees"]) == [(tile, None, None) for tile, _, _ in classed]


def test_labels_in_class_folders_come_before_the_folders_names(tmp_path: Path) -> None:
    touch(tmp_path, "north/a.tif", "north/a_label.tif", "south/b.tif", "south/b_label.tif")
    assert found(tmp_path) == [
        ("north/a.tif", "north/a_label.tif", None),
        ("south/b.tif", "south/b_label.tif", None),
    ]


def test_missing_labels_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.tif", "images/b.tif", "images/c.tif", "masks/b.png")
    with pytest.raises(LabelError, match=r"images/a\.tif: has no label in labels/.*; 2 of 3 tiles have none; add them"):
        found(tmp_path)
    with pytest.raises(LabelError, match=r"images/a\.tif: has no label in .*/masks; 2 of 3 tiles have none"):
        found(tmp_path, "images", labels=str(tmp_path / "masks"))


def test_folder_of_labels_of_which_none_fits_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.tif", "masks/m_a.png")
    with pytest.raises(LabelError, match=r"a\.tif: has no label of equal name in .*masks \(there: m_a\.png \.\.\.\)"):
        found(tmp_path)


def test_labels_without_images_folder_are_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "S2/a.tif", "Labels/a.tif")
    with pytest.raises(LabelError, match=r"has Labels/ but no images/ beside it; rename the folder of the tiles"):
        found(tmp_path)
    assert found(tmp_path, "S2", labels=str(tmp_path / "Labels")) == [("S2/a.tif", "Labels/a.tif", None)]


def test_two_labels_for_a_tile_are_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.tif", "masks/a.png", "masks/a.tif")
    with pytest.raises(LabelError, match=r"images/a\.tif: has several labels in .*masks: a\.png, a\.tif; keep one"):
        found(tmp_path)


def test_given_labels_come_first(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.tif", "masks/a.png", "mine/a_label.tif", "p.gpkg", "one.tif")
    mine = found(tmp_path, "images", labels=str(tmp_path / "mine"))
    assert mine == [("images/a.tif", "mine/a_label.tif", None)]
    assert found(tmp_path, labels=str(tmp_path / "one.tif")) == [("images/a.tif", "one.tif", None)]
    tiles = discover_tiles([str(tmp_path)], labels=str(tmp_path / "p.gpkg"), label_field="kind")
    assert tiles[0].label == LabelSource(str(tmp_path / "p.gpkg"), "kind")
    assert tiles[0].label.is_vector


def test_score_rasters_find_the_truth_of_their_scene(tmp_path: Path) -> None:
    touch(
        tmp_path, "maps/a_anomaly.tif", "maps/b_anomaly.tif", "truth/a.tif", "truth/b_mask.tif", "truth/b_anomaly.tif"
    )
    assert found(tmp_path, "maps", labels=str(tmp_path / "truth")) == [
        ("maps/a_anomaly.tif", "truth/a.tif", None),
        ("maps/b_anomaly.tif", "truth/b_anomaly.tif", None),
    ]
    touch(tmp_path, "maps/c_anomaly.tif")
    with pytest.raises(LabelError, match=r"c_anomaly\.tif: has no label in .*truth; 1 of 3 tiles have none; add them"):
        found(tmp_path, "maps", labels=str(tmp_path / "truth"))


def test_given_labels_that_cannot_be_meant(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.tif", "images/b.tif", "one.tif")
    with pytest.raises(LabelError, match=r"one\.tif: is one raster, but there are 2 tiles; give a folder of label"):
        found(tmp_path, labels=str(tmp_path / "one.tif"))
    with pytest.raises(LabelError, match=r"--labels .*none: no such file or folder"):
        found(tmp_path, labels=str(tmp_path / "none"))
    with pytest.raises(LabelError, match=r"--label-field kind: is for vector files, but --labels .*one\.tif is none"):
        found(tmp_path, labels=str(tmp_path / "one.tif"), label_field="kind")
    with pytest.raises(LabelError, match=r"--label-field kind: needs --labels with a vector file"):
        found(tmp_path, label_field="kind")


def test_rasters_beside_images_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "images/a.tif", "preview.png")
    assert found(tmp_path) == [("images/a.tif", None, None)]
    assert "only images/ is read, 1 rasters beside it are not" in caplog.text


def test_tiles_in_a_zip_archive(tmp_path: Path) -> None:
    tile = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "width": 8, "height": 8, "count": 1, "dtype": "uint8"}
    with rasterio.open(tile, "w", transform=Affine(1, 0, 9, 0, -1, 9), **profile) as dataset:
        dataset.write(np.zeros((1, 8, 8), np.uint8))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("tiles/images/a.tif", "tiles/masks/a.tif"):
            archive.write(tile, name)
    root = f"/vsizip/{tmp_path}/set.zip/tiles"
    pair = [TileSource(f"{root}/images/a.tif", LabelSource(f"{root}/masks/a.tif"))]
    assert discover_tiles([root]) == pair
    assert discover_tiles([f"{root}/images/*.tif"]) == pair
    assert discover_tiles([f"{root}/images/a.tif"]) == pair
    with pytest.raises(RasterError, match=r"nothing: no such file or folder"):
        discover_tiles([f"{root}/nothing"])
