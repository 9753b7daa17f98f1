"""Tiles and labels wherever the general rules find them, see `asd_cli.data.discovery`."""

from __future__ import annotations

from collections.abc import Sequence

from asd_cli.data.discovery import TileSource, discover_tiles
from asd_cli.data.layouts.base import Layout
from asd_cli.options import TileOptions


def _find(options: TileOptions, normal: Sequence[str]) -> list[TileSource]:
    return discover_tiles(options.tiles, labels=options.labels, label_field=options.label_field, normal=normal)


LAYOUT = Layout(_find)
