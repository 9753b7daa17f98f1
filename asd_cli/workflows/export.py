"""`asd export`: a model as one ONNX file, compared with torch before it is kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from asd_cli import __version__
from asd_cli.errors import AsdError, InputError, OutputError
from asd_cli.nn.onnx_graph import OPSET, Dimension, OnnxGraph, run_once
from asd_cli.options import ExportOptions
from asd_cli.staging import StagedFiles, check_not_read
from asd_cli.workflows.models import Model, load_model
from asd_cli.workflows.onnx_scores import add_score
from asd_cli.workflows.scores import ScoreScale

TOLERANCE = 1e-4
_SIZES = ((1, 1), (37, 53), (8, 131), (101, 64))  # of outputs; multiples of nothing in common
_BATCHES = (1, 3)
_DEEPNESS_RANGE = 255.0  # what the plug-in divides pixels by
_WORDS = {"unit": "anomaly score", "distance": "anomaly distance", "far": "expected false-alarm rate"}
Array = NDArray[np.float32]


@dataclass(frozen=True)
class ExportReport:
    """What was written. `halo`: pixels that the output lacks on each side, 0 if it has the input's size. `compared`
    pixels differ from torch by `largest_difference` at most: of the score, or relative for distances."""

    onnx: Path
    model: str
    model_sha256: str
    method: str
    score: str
    input_shape: tuple[Dimension, ...]
    output_shape: tuple[Dimension, ...]
    halo: int
    opset: int
    compared: int
    largest_difference: float
    bytes: int

    def summary(self) -> str:
        """One line for people."""
        size = "the input's size" if not self.halo else f"{self.halo} px less on each side"
        return (
            f"{self.onnx}: {self.bytes / 2**20:.2f} MiB, opset {self.opset}, input {_shown(self.input_shape)}, output "
            f"{_shown(self.output_shape)} ({size}); differs from torch by {self.largest_difference:.2g} at most "
            f"({self.compared} random pixels)"
        )


def export_model(options: ExportOptions) -> ExportReport:
    """Write a model file as ONNX.

    Raises:
        AsdError: the model or the target cannot be used, the method cannot be exported, or ONNX Runtime and torch
            differ; nothing is left then.
    """
    if options.output.suffix.lower() != ".onnx":
        raise InputError(f"-o {options.output}: is no name of an ONNX file; name it {options.output.stem}.onnx")
    with StagedFiles(overwrite=options.overwrite) as staged:
        temporary = staged.stage(options.output)
        check_not_read([options.output], [options.model])
        model = load_model(options.model)
        exported = _Exported(model, options)
        content = exported.content()
        difference, compared = exported.compare(content)
        if not difference <= TOLERANCE:
            raise AsdError(
                f"{options.output}: not written, for ONNX Runtime and torch differ by {difference:.2g} (allowed: "
                f"{TOLERANCE:g}); this is a fault of asd or of the model, please report it"
            )
        try:
            temporary.write_bytes(content)
        except OSError as error:
            raise OutputError(f"{options.output}: cannot be written ({error.strerror}); check the disk") from error
        staged.commit()
    return ExportReport(
        onnx=options.output,
        model=str(options.model),
        model_sha256=model.sha256,
        method=model.detector.name,
        score=options.score,
        input_shape=exported.input_shape,
        output_shape=exported.output_shape,
        halo=exported.lacking,
        opset=OPSET,
        compared=compared,
        largest_difference=difference,
        bytes=len(content),
    )


class _Exported:
    """The graph of a model as the options want it."""

    def __init__(self, model: Model, options: ExportOptions) -> None:
        self._model, self._options = model, options
        self._halo = model.detector.halo
        self._same_size = options.same_size or options.deepness is not None
        self.lacking = 0 if self._same_size else self._halo
        if options.deepness is not None and options.deepness <= 2 * self._halo:
            raise InputError(f"--deepness {options.deepness}: the model needs tiles above {2 * self._halo} px")
        side: tuple[Dimension, Dimension] = ("height", "width")
        if options.deepness is not None:
            side = (options.deepness, options.deepness)
        inner: tuple[Dimension, Dimension] = side if not self.lacking else ("inner_height", "inner_width")
        self.input_shape: tuple[Dimension, ...] = ("batch", model.detector.bands, *side)
        self.output_shape: tuple[Dimension, ...] = ("batch", 1, *inner)

    def content(self) -> bytes:
        """The ONNX file."""
        graph, x = OnnxGraph(), "x"
        if self._options.deepness is not None:
            x = graph.add("Mul", x, graph.constant(_DEEPNESS_RANGE))
        if self._same_size and self._halo:
            x = graph.mirror(x, self._halo)
        try:
            distance = self._model.detector.eval().add_distances(graph, x)
        except InputError as error:
            raise InputError(f"{self._model.path}: {error}") from error
        score = add_score(graph, distance, self._options.score, self._model.calibration)
        return graph.model(graph.rename(score, "score"), self.input_shape, self.output_shape, self._metadata())

    def _metadata(self) -> dict[str, str]:
        model, options = self._model, self._options
        facts = {
            "asd_version": __version__,
            "asd_model": model.path.name,
            "asd_model_sha256": model.sha256,
            "asd_method": model.detector.name,
            "asd_normal": ",".join(model.header["normal"]),
            "asd_score": options.score,
            "asd_threshold": repr(float(self._scale().threshold)),
            "asd_false_alarm_rate": f"{model.calibration.false_alarm_rate:g}",
            "asd_input": "raw pixel values of the bands " + ", ".join(model.header["bands"]["names"]),
            "asd_halo": str(self.lacking),
            "asd_align": str(model.detector.align),
        }
        if options.deepness is None:
            return facts
        facts["asd_input"] += f", divided by {_DEEPNESS_RANGE:g}"
        return facts | _deepness_metadata(model, options)

    def _scale(self) -> ScoreScale:
        calibration = self._model.calibration
        return ScoreScale.build(self._options.score, calibration, rate=calibration.false_alarm_rate, threshold=None)

    def compare(self, content: bytes) -> tuple[float, int]:
        """Run the file on random images of several sizes: the largest difference from torch, and pixels compared."""
        random, largest, compared = np.random.default_rng(0), 0.0, 0
        tile = self._options.deepness
        # what is mirrored must be larger than the halo
        least = self._halo + 1 if self._same_size else 0
        sizes = [(tile, tile)] if tile is not None else [(least + height, least + width) for height, width in _SIZES]
        for batch in _BATCHES[: 1 if tile is not None else 2]:
            for size in sizes:
                expected, found = self._both(content, batch, size, random)
                if found.shape != expected.shape:
                    raise AsdError(
                        f"{self._options.output}: gives {found.shape}, not {expected.shape}; please report it"
                    )
                apart = np.abs(found.astype(np.float64) - expected)
                if self._options.score == "distance":
                    apart /= expected + self._model.calibration.threshold
                largest = max(largest, float(apart.max()) if np.isfinite(apart).all() else np.inf)
                compared += found.size
        return largest, compared

    def _both(
        self, content: bytes, batch: int, size: tuple[int, int], random: np.random.Generator
    ) -> tuple[Array, Array]:
        """Scores (batch, 1, *size) of a random image, of torch and of the file."""
        lacking = 2 * self.lacking
        image = self._image((batch, self._model.detector.bands, size[0] + lacking, size[1] + lacking), random)
        margin = (self._halo - self.lacking,) * 2
        padded = np.pad(image, ((0, 0), (0, 0), margin, margin), mode="reflect")
        with torch.inference_mode():
            distances = self._model.detector.eval().distances(torch.from_numpy(padded)).numpy()
        given = image if self._options.deepness is None else image / np.float32(_DEEPNESS_RANGE)
        return self._scale().scores(distances)[:, None], run_once(content, given)

    def _image(self, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        """Patches of random colour with noise, in and somewhat beyond the range of normal pixels."""
        arrays = self._model.detector.arrays()
        low, high = (arrays[name].astype(np.float64)[:, None, None] for name in ("low", "high"))
        batch, bands, height, width = shape
        patches = random.normal(0.0, 0.3, (batch, bands, height // 8 + 1, width // 8 + 1)).repeat(8, 2).repeat(8, 3)
        noise = random.normal(0.0, 0.1, shape)
        image: Array = (low + (high - low) * (0.5 + patches[:, :, :height, :width] + noise)).astype(np.float32)
        return image


def _deepness_metadata(model: Model, options: ExportOptions) -> dict[str, str]:
    """Keys of the plug-in's guide for model creators, values in JSON; lengths in pixels, resolution in cm."""
    tile = options.deepness or 0
    facts: dict[str, object] = {
        "model_type": "Regressor",
        "class_names": {0: _WORDS[options.score]},
        "tile_size": tile,
        "tiles_overlap": overlap_percent(tile, model.detector.halo, model.detector.align),
        "reg_output_scaling": 1.0,
    }
    if model.pixel_size_m is not None:
        facts["resolution"] = round(100 * model.pixel_size_m, 6)
    return {key: json.dumps(value) for key, value in facts.items()}


def overlap_percent(tile: int, halo: int, align: int) -> int:
    """The least overlap of tiles, in percent, at which no kept pixel is scored with a mirrored border, and tiles start
    at multiples of `align`, if there is one."""
    overlaps = {percent: int(tile * percent / 100 * 2) // 2 for percent in range(100)}  # as the plug-in counts
    enough = [percent for percent, overlap in overlaps.items() if overlap // 2 >= halo]
    aligned = [percent for percent in enough if (tile - overlaps[percent]) % align == 0]
    return (aligned or enough)[0]


def _shown(shape: tuple[Dimension, ...]) -> str:
    return " x ".join(map(str, shape))
