"""What the signs of a localised ASD model are made of."""

from __future__ import annotations

from typing import NamedTuple

from asd_cli.nn.far_means import CELL

_MOST_SMOOTHING, _LARGEST_TEXTURE, _FARTHEST = 32.0, 63, 31 * CELL


class SignSettings(NamedTuple):
    """How far signs look around a pixel, and how careful a Gaussian is.

    smoothing, blur: standard deviations of the smoothing of the networks' distance, and of colours (px). far: side of
    the squares that colours farther around are means of, an odd number of cells of 8 px, 0 for none (px). texture:
    side of the squares of the texture, 0 for none (px). caution: of tiles unlike those of the training, see
    `asd_cli.density.unseen`.
    """

    smoothing: float = 0.0
    blur: float = 0.0
    far: int = 0
    texture: int = 0
    caution: float = 0.0

    def checked(self) -> SignSettings:
        """The same, from a model file.

        Raises:
            ValueError: one is out of range.
        """
        for name, most in (("smoothing", _MOST_SMOOTHING), ("blur", _MOST_SMOOTHING), ("caution", 1.0)):
            value = getattr(self, name)
            if not (type(value) in (int, float) and 0 <= value <= most):
                raise ValueError(f"{name} {value} is not within 0..{most:g}")
        for name, unit, most in (("texture", 1, _LARGEST_TEXTURE), ("far", CELL, _FARTHEST)):
            value = getattr(self, name)
            odd = type(value) is int and not value % unit and value // unit % 2
            if not (type(value) is int and 0 <= value <= most and (odd or not value)):
                raise ValueError(f"{name} {value} is not 0 or an odd number{f' of {unit}' * (unit > 1)} up to {most}")
        return self._replace(smoothing=float(self.smoothing), blur=float(self.blur), caution=float(self.caution))
