"""ROC and precision-recall curves as PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asd_cli.metrics.iou import Confusion
from asd_cli.metrics.roc import RocCurve, auc, average_precision, precision_recall

PLOT_FILES = ("roc.png", "precision_recall.png")
_POINTS = 2000


def plot_curves(roc: Path, pr: Path, curve: RocCurve, at: Confusion) -> None:
    """Write the two plots of a curve with both classes; `at`: counts at the calibrated threshold, marked on each."""
    _plot(
        roc,
        (curve.fpr, curve.tpr),
        (at.false_alarm_rate, at.recall),
        labels=("false-alarm rate", "share of anomalous pixels found", f"ROC, AUC {auc(curve):.3f}"),
    )
    shares = precision_recall(curve)
    _plot(
        pr,
        (shares.recall, shares.precision),
        (at.recall, at.precision),
        labels=("recall", "precision", f"Precision and recall, AP {average_precision(curve):.3f}"),
    )


def _plot(
    path: Path,
    line: tuple[NDArray[np.float64], NDArray[np.float64]],
    mark: tuple[float, float],
    *,
    labels: tuple[str, str, str],
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = np.unique(np.linspace(0, len(line[0]) - 1, _POINTS).astype(int))
    figure = Figure(figsize=(5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(line[0][chosen], line[1][chosen], color="#b2182b", linewidth=1.5)
    axes.plot(*mark, "o", color="black", label="calibrated threshold")
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel=labels[0], ylabel=labels[1], title=labels[2])
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
