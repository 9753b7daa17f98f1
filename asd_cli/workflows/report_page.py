"""The page of a report: facts and pictures put into the template, every text escaped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import jinja2

from asd_cli import __version__
from asd_cli.raster.ramp import COLOURS
from asd_cli.workflows.report_pictures import Drawn, Input
from asd_cli.workflows.report_scan import Scan

_PLOT_WIDTH, _PLOT_HEIGHT = 800, 240
_PROVENANCE = {
    "ASD_SCENE": "Scene",
    "ASD_MODEL": "Model",
    "ASD_MODEL_SHA256": "SHA-256 of the model",
    "ASD_METHOD": "Method",
    "ASD_NORMAL": "Normal class",
    "ASD_SCORE": "Score",
    "ASD_THRESHOLD": "Threshold",
    "ASD_FALSE_ALARM_RATE": "False-alarm rate",
    "ASD_VERSION": "asd version",
    "ASD_TORCH_VERSION": "PyTorch version",
    "ASD_COMMAND": "Command",
}
_MEANINGS = {
    "unit": "Score from 0 to 1, 0.5 at the model's threshold.",
    "distance": "Distance from what is normal, in the method's own units.",
    "far": "Expected false-alarm rate: the share of normal pixels that are at least as odd. Low is anomalous.",
}


@dataclass(frozen=True)
class Bar:
    """A bar of the histogram, in units of the plot."""

    x: float
    y: float
    width: float
    height: float
    anomalous: bool


@dataclass(frozen=True)
class Page:
    """All that the page shows; `input`, `polygons` and `drawn` are None where there are none."""

    raster: str
    scan: Scan
    input: Input | None
    scores: str
    polygons: str | None
    drawn: Drawn | None

    @property
    def expected(self) -> float | None:
        """Pixels above the threshold if every valid pixel were normal."""
        rate = self.scan.false_alarm_rate
        return None if rate is None else rate * self.scan.valid

    @property
    def times(self) -> float | None:
        """How many times the expected false alarms are anomalous."""
        return self.scan.anomalous / self.expected if self.expected else None

    @property
    def provenance(self) -> list[tuple[str, str]]:
        """Names and values of the map's tags."""
        tags = self.scan.tags
        return [(name, tags[tag]) for tag, name in _PROVENANCE.items() if tags.get(tag)]

    @property
    def meaning(self) -> str:
        """What the score is."""
        return _MEANINGS[self.scan.ramp.kind]

    @property
    def crs(self) -> str:
        """Name of the map's coordinate reference system."""
        crs = self.scan.grid.crs
        authority = None if crs is None else crs.to_authority()
        return "none" if crs is None else ":".join(authority) if authority else "custom"

    @property
    def pixel_size(self) -> str:
        """Side of a pixel in words."""
        size = self.scan.grid.pixel_size_m
        return "unknown" if size is None else f"{size:.4g} m"

    @property
    def threshold_at(self) -> float:
        """Place of the threshold in the plot."""
        import numpy as np

        place = self.scan.scale.places(np.array([self.scan.ramp.threshold], np.float32))[0]
        return round(float(place) * _PLOT_WIDTH, 2)

    @property
    def ramp_stops(self) -> list[tuple[str, str]]:
        """Labels and CSS colours of the ramp, from the threshold on."""
        return [(f"{value:.3g}", f"rgb{colour}") for value, colour in self.scan.ramp.stops()]

    def bars(self) -> Iterator[Bar]:
        """Bars with heights by the logarithm of their counts."""
        counts, most = self.scan.counts, self._decades()
        width = _PLOT_WIDTH / len(counts)
        for index, count in enumerate(counts.tolist()):
            if count:
                height = round(max(math.log10(count) / most, 0.015) * _PLOT_HEIGHT, 2)
                middle = (index + 0.5) * width
                x, y = round(index * width, 2), round(_PLOT_HEIGHT - height, 2)
                yield Bar(x, y, round(width - 1, 2), height, middle > self.threshold_at)

    def count_ticks(self) -> list[tuple[float, str]]:
        """Heights and labels of the decades."""
        decades = self._decades()
        step = -(-decades // 5)
        labels = ((power, f"{10**power:,}") for power in range(0, decades + 1, step))
        return [(round(_PLOT_HEIGHT * (1 - power / decades), 2), label) for power, label in labels]

    def score_ticks(self) -> list[tuple[float, str]]:
        """Places and labels of the axis of scores."""
        return [(round(place * _PLOT_WIDTH, 2), label) for place, label in self.scan.scale.ticks()]

    def _decades(self) -> int:
        return max(1, math.ceil(math.log10(max(int(self.scan.counts.max()), 1))))


def render(page: Page) -> str:
    """The page as HTML; what comes from files cannot become markup."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("asd_cli.workflows"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda number: f"{number:,.0f}"
    environment.filters["percent"] = _percent
    return environment.get_template("report.html").render(
        page=page, version=__version__, plot=(_PLOT_WIDTH, _PLOT_HEIGHT), colours=len(COLOURS)
    )


def _percent(share: float) -> str:
    """Digits as a small share needs."""
    return f"{share:.1%}" if share >= 0.1 or share == 0 else f"{100 * share:.2g}%"
