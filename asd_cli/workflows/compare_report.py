"""The table of a comparison: figures of each row, over its splits, as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_COLUMNS = (
    ("auc", "AUC", 1, 3),
    ("average_precision", "AP", 1, 3),
    ("miou_oracle", "mIoU*", 1, 3),
    ("miou", "mIoU", 1, 3),
    ("f1", "F1", 1, 3),
    ("region_overlap", "AUPRO", 1, 3),
    ("train_seconds", "train s", 1, 1),
    ("mpx_per_second", "Mpx/s", 1, 2),
    ("model_bytes", "model KiB", 1024, 0),
)
"""Figure, head, what it is divided by, decimals."""
_NOTE = (
    "* oracle: at the upper-left ROC point of the test labels; mIoU and F1 without it are at the model's own "
    "calibrated threshold. AUPRO: region overlap up to 30 % false alarms"
)


@dataclass(frozen=True)
class CompareRow:
    """One method or variant: its figures by split, or why a split failed."""

    name: str
    method: str
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether a split failed; means over the others would be compared with nothing."""
        return bool(self.errors)

    @property
    def error(self) -> str:
        """The first error, and of how many splits; empty without one."""
        if not self.errors:
            return ""
        split, text = next(iter(self.errors.items()))
        more = f" ({len(self.errors)} of {len(self.errors) + len(self.figures)} splits failed)"
        return f"{split}: {text}" + more * (len(self.errors) + len(self.figures) > 1)

    def values(self, figure: str) -> list[float]:
        """A figure of each split that has it."""
        found = [figures.get(figure, math.nan) for figures in self.figures.values()]
        return [value for value in found if not math.isnan(value)]

    def mean(self, figure: str) -> float:
        """Mean over the splits; NaN where none has it or one failed."""
        values = self.values(figure)
        return statistics.fmean(values) if values and not self.failed else math.nan

    def spread(self, figure: str) -> float:
        """Standard deviation over the splits (n - 1); NaN below two."""
        values = self.values(figure)
        return statistics.stdev(values) if len(values) > 1 and not self.failed else math.nan


@dataclass(frozen=True)
class CompareReport:
    """What `asd compare` came to. `splits`: names of the training and test tiles by split; `maps`: pictures."""

    rows: tuple[CompareRow, ...]
    splits: Mapping[str, Mapping[str, Sequence[str]]]
    normal: tuple[str, ...]
    folder: Path
    maps: tuple[Path, ...] = ()

    @property
    def failed(self) -> tuple[CompareRow, ...]:
        """Rows that have no figures."""
        return tuple(row for row in self.rows if row.failed)

    def table(self) -> str:
        """For people, with aligned columns."""
        lines = self._cells()
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = [
            "  ".join(
                cell.ljust(width) if not place else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*text, *self._notes()])

    def markdown(self) -> str:
        """The same as Markdown."""
        lines = self._cells()
        rule = ["---", *("---:" for _ in lines[0][1:])]
        rows = [f"| {' | '.join(cells)} |" for cells in (lines[0], rule, *lines[1:])]
        return "\n".join([*rows, "", *(f"{note}\n" for note in self._notes())])

    def as_json(self) -> dict[str, Any]:
        """Every figure of every split, with means and spreads; JSON-ready but for NaN."""
        return {
            "normal": list(self.normal),
            "splits": {
                name: {part: list(tiles) for part, tiles in parts.items()} for name, parts in self.splits.items()
            },
            "rows": [
                {
                    "name": row.name,
                    "method": row.method,
                    "mean": {figure: row.mean(figure) for figure in self._figures()},
                    "spread": {figure: row.spread(figure) for figure in self._figures()},
                    "splits": {split: dict(figures) for split, figures in row.figures.items()},
                    "errors": dict(row.errors),
                }
                for row in self.rows
            ],
            "maps": [str(path) for path in self.maps],
        }

    def write_csv(self, path: Path) -> None:
        """One line a row, with mean and, of several splits, spread of every figure."""
        several = len(self.splits) > 1
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            heads = [head for name in self._figures() for head in (name, f"{name}_spread")[: 1 + several]]
            writer.writerow(["name", "method", *heads, "error"])
            for row in self.rows:
                pairs = [(row.mean(name), row.spread(name))[: 1 + several] for name in self._figures()]
                writer.writerow([row.name, row.method, *(_or_empty(v) for pair in pairs for v in pair), row.error])

    def write_json(self, path: Path) -> None:
        """`as_json`, with null for what has no value."""
        path.write_text(json.dumps(_nulls(self.as_json()), indent=2), encoding="utf-8")

    def _figures(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for row in self.rows for figures in row.figures.values() for name in figures))

    def _cells(self) -> list[list[str]]:
        heads = ["", *(head for _, head, _, _ in _COLUMNS)]
        return [heads, *([row.name, *(_cell(row, *column) for column in _COLUMNS)] for row in self.rows)]

    def _notes(self) -> list[str]:
        sizes = [(len(parts["train"]), len(parts["test"])) for parts in self.splits.values()]
        train, test = sizes[0]
        shown = (
            f"{train} training and {test} test tiles" if len(sizes) == 1 else f"means ± spread over {len(sizes)} folds"
        )
        return [f"{shown}; {_NOTE}", *(f"{row.name} failed: {row.error}" for row in self.failed)]


def _cell(row: CompareRow, figure: str, head: str, unit: float, decimals: int) -> str:
    if row.failed:
        return "failed" if head == _COLUMNS[0][1] else "-"
    mean, spread = row.mean(figure) / unit, row.spread(figure) / unit
    if math.isnan(mean):
        return "-"
    return f"{mean:.{decimals}f}" if math.isnan(spread) else f"{mean:.{decimals}f} ± {spread:.{decimals}f}"


def _or_empty(value: float) -> float | str:
    return "" if math.isnan(value) else value


def _nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nulls(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_nulls(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
