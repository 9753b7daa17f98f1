"""Opening the tiles that a command was given, and what a model file says of them."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from asd_cli.data.layouts import FoundTiles, find_tiles
from asd_cli.data.tiles import TileSet
from asd_cli.options import TileOptions
from asd_cli.workflows.models import Model

_log = logging.getLogger(__name__)
_PIXEL_SIZE_RATIO = 1.5


def open_tiles(options: TileOptions) -> TileSet:
    """The tiles that the options name, with their labels and classes.

    Raises:
        RasterError, LabelError: tiles or labels cannot be used.
    """
    found = find_tiles(options)
    tiles = tile_set(options, found, options.normal)
    if found.classes.labelled:
        _log.info("%d tiles; labels found, with classes: %s", len(tiles), found.classes.listed())
    else:
        _log.info("%d tiles; no labels found: every valid pixel counts as normal", len(tiles))
    return tiles


def tile_set(
    options: TileOptions, found: FoundTiles, normal: Sequence[str], *, bands: Sequence[int] | None = None
) -> TileSet:
    """Tiles that were found, with these normal classes; `bands` count before those of the options and the layout."""
    return TileSet(
        found.sources,
        found.classes,
        normal=normal,
        ignore=options.ignore_label,
        bands=bands or options.bands or found.bands,
        nodata=options.nodata,
    )


def open_tiles_for(model: Model, options: TileOptions) -> TileSet:
    """As `open_tiles`, with the bands that a model needs.

    Raises:
        RasterError, LabelError: tiles or labels cannot be used, or the bands do not fit.
    """
    tiles = open_tiles(options)
    if options.bands is None and (chosen := model.bands_of(tiles)):
        return open_tiles(replace(options, bands=chosen))
    if tiles.band_count == model.detector.bands:
        return tiles
    raise model.band_error(tiles.sources[0].path, tiles.band_count)


def normal_names(tiles: TileSet, options: TileOptions) -> list[str]:
    """Names of the normal classes; without labels, what the user calls them."""
    if tiles.classes.labelled:
        return [tiles.classes.name(code) for code in sorted(tiles.normal_codes)]
    return list(options.normal) or ["normal"]


def tile_facts(tiles: TileSet, options: TileOptions) -> dict[str, Any]:
    """Bands, pixel size and normal classes, as the header of a model file holds them."""
    return {
        "bands": {
            "count": tiles.band_count,
            "indexes": list(tiles.bands),
            "of": tiles.file_bands,
            "alpha": list(tiles.tagged_alpha),
            "names": list(tiles.band_names),
            "dtype": tiles.dtype,
        },
        "pixel_size_m": _pixel_size(tiles),
        "normal": normal_names(tiles, options),
    }


def _pixel_size(tiles: TileSet) -> float | None:
    sizes = [size for grid in tiles.grids if (size := grid.pixel_size_m) is not None]
    if not sizes:
        return None
    if max(sizes) / min(sizes) > _PIXEL_SIZE_RATIO:
        _log.warning(
            "the tiles have pixels of %.3g to %.3g m; bring them to one size (gdalwarp -tr)",
            min(sizes),
            max(sizes),
        )
    return float(f"{statistics.median(sizes):.6g}")


def warn_of_suspicious(ratios: Mapping[int, float], tiles: TileSet) -> None:
    """Warn of tiles whose pixels look anomalous under the others."""
    for index, ratio in sorted(ratios.items(), key=lambda item: -item[1]):
        _log.warning(
            "%s: its normal pixels look anomalous under the other tiles (mean squared distance %.1f times the usual); "
            "check its labels",
            tiles.sources[index].path,
            ratio,
        )
