"""From distances to scores as nodes of ONNX: `Calibration` spelled for other programs."""

from __future__ import annotations

import numpy as np

from asd_cli.density.calibration import Calibration
from asd_cli.nn.onnx_graph import OnnxGraph
from asd_cli.workflows.scores import Kind

_FARTHEST = 1e30  # beyond, float32 would overflow
_FLOAT, _DOUBLE = 1, 11  # types of ONNX


def add_score(graph: OnnxGraph, distance: str, kind: Kind, calibration: Calibration) -> str:
    """A name of distances -> that of scores of the same shape, float32."""
    if kind == "distance":
        return distance
    distance = graph.add("Clip", distance, graph.constant(0.0), graph.constant(_FARTHEST))
    if kind == "unit":
        return _add_unit(graph, distance, calibration.threshold)
    return _add_rate(graph, distance, calibration)


def _add_unit(graph: OnnxGraph, distance: str, threshold: float) -> str:
    """distance / (distance + threshold), at least 0.5 just where the distance reaches the threshold."""
    exact = np.float32(threshold)
    above = graph.constant(exact if exact >= threshold else np.nextafter(exact, np.float32(np.inf)))
    score = graph.add("Div", distance, graph.add("Add", distance, above))
    below = [graph.constant(np.nextafter(np.float32(limit), np.float32(0))) for limit in (0.5, 1.0)]
    return graph.add("Min", score, graph.add("Where", graph.add("Less", distance, above), *below))


def _add_rate(graph: OnnxGraph, distance: str, calibration: Calibration) -> str:
    """`Calibration.rate` in float64: the knot below is found by bisection."""

    def number(value: float) -> str:
        return graph.constant(value, np.float64)

    away = graph.add("Cast", distance, to=_DOUBLE)
    size = 1 << (len(calibration.knots) - 1).bit_length()
    spare = size - len(calibration.knots)
    knots = graph.constant(np.pad(calibration.knots, (0, spare), constant_values=np.inf), np.float64)
    place = graph.add("Cast", graph.add("Mul", distance, graph.constant(0.0)), to=7)
    step = size // 2
    while step:
        further = graph.add("Add", place, graph.constant(step, np.int64))
        reached = graph.add("GreaterOrEqual", away, graph.add("Gather", knots, further))
        place = graph.add("Where", reached, further, place)
        step //= 2
    slopes = np.append(np.diff(calibration.log_rates) / np.diff(calibration.knots), 0.0)
    start, log_rate, slope = (
        graph.add("Gather", graph.constant(values, np.float64), place)
        for values in (calibration.knots, calibration.log_rates, slopes)
    )
    logs = graph.add("Add", log_rate, graph.add("Mul", slope, graph.add("Sub", away, start)))
    last = float(calibration.knots[-1])
    steps = graph.add(
        "Div", graph.add("Max", graph.add("Sub", away, number(last)), number(0)), number(calibration.tail_scale)
    )
    if calibration.tail_shape > 0:
        shape = number(calibration.tail_shape)
        steps = graph.add("Div", graph.add("Log", graph.add("Add", graph.add("Mul", steps, shape), number(1))), shape)
    return graph.add("Cast", graph.add("Exp", graph.add("Sub", logs, steps)), to=_FLOAT)
