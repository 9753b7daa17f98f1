"""QGIS styles (.qml): one text that colours both the raster and the polygons of a map."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as Xml

import numpy as np

from asd_cli.raster.ramp import Colour, ScoreRamp

_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
_POLYGON = "2"  # QGIS's number of the geometry type
_FILL_ALPHA, _OUTLINE_MM = 64, 0.5
_HIGHEST = {"unit": 1.0, "distance": 1e308}


def qml(ramp: ScoreRamp) -> str:
    """The style: QGIS takes `pipe` for a raster and `renderer-v2` for polygons.

    QGIS looks for NAME.qml beside NAME.tif as well as beside NAME.gpkg, so one file serves the two.
    """
    root = Xml.Element("qgis", version="3.22.0", styleCategories="Symbology")
    _raster(Xml.SubElement(root, "pipe"), ramp)
    _polygons(root, ramp)
    Xml.indent(root)
    return _DOCTYPE + Xml.tostring(root, encoding="unicode") + "\n"


def _raster(pipe: Xml.Element, ramp: ScoreRamp) -> None:
    items = list(_items(ramp))
    lowest, highest = (repr(items[index][0]) for index in (0, -1))
    renderer = Xml.SubElement(
        pipe,
        "rasterrenderer",
        {
            "type": "singlebandpseudocolor",
            "band": "1",
            "alphaBand": "-1",
            "opacity": "1",
            "classificationMin": lowest,
            "classificationMax": highest,
        },
    )
    Xml.SubElement(renderer, "rasterTransparency")
    shader = Xml.SubElement(
        Xml.SubElement(renderer, "rastershader"),
        "colorrampshader",
        {
            "colorRampType": "INTERPOLATED",
            "classificationMode": "1",
            "clip": "0",
            "labelPrecision": "4",
            "minimumValue": lowest,
            "maximumValue": highest,
        },
    )
    for value, colour, alpha, label in items:
        text = {"value": repr(value), "color": _hex(colour), "alpha": str(alpha), "label": label}
        Xml.SubElement(shader, "item", text)


def _items(ramp: ScoreRamp) -> Iterator[tuple[float, Colour, int, str]]:
    """Value, colour, alpha and label of each point of the ramp, ascending; a float32 step beside the threshold is
    nothing."""
    stops = ramp.stops()
    coloured = [(value, colour, 255, f"{value:.4g}") for value, colour in stops]
    first = stops[0][1]
    limit = np.float32(ramp.threshold)
    if ramp.lower_is_anomalous:
        above = float(np.nextafter(limit, np.float32(np.inf)))
        yield from reversed(coloured)
        yield from ((above, first, 0, "not anomalous"), (1.0, first, 0, "1"))
    else:
        below = float(np.nextafter(limit, np.float32(0)))
        yield from ((0.0, first, 0, "0"), (below, first, 0, "not anomalous"))
        yield from coloured


def _polygons(root: Xml.Element, ramp: ScoreRamp) -> None:
    renderer = Xml.SubElement(
        root,
        "renderer-v2",
        {
            "type": "graduatedSymbol",
            "attr": "score_max",
            "graduatedMethod": "GraduatedColor",
            "symbollevels": "0",
            "enableorderby": "0",
            "forceraster": "0",
        },
    )
    ranges, symbols = Xml.SubElement(renderer, "ranges"), Xml.SubElement(renderer, "symbols")
    for number, (lower, upper, colour, label) in enumerate(_classes(ramp)):
        text = {"symbol": str(number), "lower": repr(lower), "upper": repr(upper), "label": label, "render": "true"}
        Xml.SubElement(ranges, "range", text)
        symbol = Xml.SubElement(
            symbols, "symbol", {"type": "fill", "name": str(number), "alpha": "1", "clip_to_extent": "1"}
        )
        layer = Xml.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"})
        options = Xml.SubElement(layer, "Option", type="Map")
        for name, value in _fill(colour).items():
            Xml.SubElement(options, "Option", {"name": name, "value": value, "type": "QString"})
    Xml.SubElement(root, "layerGeometryType").text = _POLYGON


def _classes(ramp: ScoreRamp) -> Iterator[tuple[float, float, Colour, str]]:
    """Lower and upper bound, colour and label of each class of `score_max`; together they hold every polygon."""
    stops = ramp.stops()
    for index, (value, colour) in enumerate(stops[:-1]):
        beyond = stops[index + 1][0]
        last = index == len(stops) - 2
        shown = f"{value:.4g} - {beyond:.4g}"
        if ramp.lower_is_anomalous:
            yield 0.0 if last else beyond, value, colour, shown
        else:
            yield value, (_HIGHEST[ramp.kind] if last else beyond), colour, shown


def _fill(colour: Colour) -> dict[str, str]:
    rgb = ",".join(map(str, colour))
    return {
        "style": "solid",
        "color": f"{rgb},{_FILL_ALPHA}",
        "outline_color": f"{rgb},255",
        "outline_style": "solid",
        "outline_width": str(_OUTLINE_MM),
        "outline_width_unit": "MM",
        "joinstyle": "bevel",
    }


def _hex(colour: Colour) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)
