"""ROC and precision-recall curves as PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from asd_cli.metrics.iou import confusion_at
from asd_cli.metrics.roc import RocCurve, auc, average_precision, precision_recall
from asd_cli.staging import StagedFiles

_POINTS = 2000


def plot_curves(folder: Path, curve: RocCurve, threshold: float, *, overwrite: bool) -> None:
    """Write ``roc.png`` and ``precision_recall.png``, the calibrated threshold marked on each.

    Raises:
        OutputError: a file exists already, or the folder cannot be written.
    """
    at = confusion_at(curve, threshold)
    pr = precision_recall(curve)
    with StagedFiles(overwrite=overwrite) as staged:
        _plot(
            staged.stage(folder / "roc.png"),
            curve.fpr,
            curve.tpr,
            (at.false_alarm_rate, at.recall),
            labels=("false-alarm rate", "share of anomalous pixels found", f"ROC, AUC {auc(curve):.3f}"),
        )
        _plot(
            staged.stage(folder / "precision_recall.png"),
            pr.recall,
            pr.precision,
            (at.recall, at.precision),
            labels=("recall", "precision", f"Precision and recall, AP {average_precision(curve):.3f}"),
        )
        staged.commit()


def _plot(
    path: Path,
    x: np.ndarray,
    y: np.ndarray,
    mark: tuple[float, float],
    *,
    labels: tuple[str, str, str],
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = np.unique(np.linspace(0, len(x) - 1, _POINTS).astype(int)) if len(x) else np.zeros(0, int)
    figure = Figure(figsize=(5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(x[chosen], y[chosen], color="#b2182b", linewidth=1.5)
    axes.plot(*mark, "o", color="black", label="calibrated threshold")
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel=labels[0], ylabel=labels[1], title=labels[2])
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
