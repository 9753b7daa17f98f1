"""How strong the virtual anomalies are; apart from `augment`, whose library takes seconds to import."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Amplitudes:
    """Strengths of the transforms, on images scaled to [0, 1]; recorded in the model file.

    noise: largest standard deviation; brightness: largest shift; contrast: largest relative change; solarize:
    threshold from which values are inverted; probability: that a transform takes part (the paper applies all in
    turn: 1).
    """

    noise: float = 0.2
    brightness: float = 0.3
    contrast: float = 0.5
    solarize: float = 0.6
    probability: float = 0.5

    def as_json(self) -> dict[str, float]:
        """The strengths by name."""
        return asdict(self)


PAPER_AMPLITUDES = Amplitudes(noise=0.2, brightness=0.2, contrast=0.2, solarize=0.6, probability=1.0)
"""All five in turn. Solarize threshold 0.2 on [-1, 1], as published, is 0.6 here. The published noise (variance
10-50, clipped) is close to pure noise; a standard deviation of at most 0.2 keeps the image."""
