"""What the signs of a localised ASD model are made of."""

from __future__ import annotations

from typing import NamedTuple

_MOST_SMOOTHING, _LARGEST_TEXTURE, _MOST_MEMORY = 32.0, 63, 4096


class SignSettings(NamedTuple):
    """How far signs look around a pixel, and what is remembered.

    smoothing, blur: standard deviations of the smoothing of the logit, and of colours (px). texture:
    side of the squares of the texture, 0 for none (px). memory: surroundings remembered.
    """

    smoothing: float
    blur: float
    texture: int
    memory: int

    @classmethod
    def checked(cls, smoothing: float, blur: float, texture: int, memory: int) -> SignSettings:
        """Numbers from a model file.

        Raises:
            ValueError: one is out of range.
        """
        for name, value in (("smoothing", smoothing), ("blur", blur)):
            if not (type(value) in (int, float) and 0 <= value <= _MOST_SMOOTHING):
                raise ValueError(f"{name} {value} is not within 0..{_MOST_SMOOTHING:g}")
        if not (type(texture) is int and 0 <= texture <= _LARGEST_TEXTURE and (texture % 2 or not texture)):
            raise ValueError(f"texture {texture} is not 0 or an odd number up to {_LARGEST_TEXTURE}")
        if not (type(memory) is int and 1 <= memory <= _MOST_MEMORY):
            raise ValueError(f"memory {memory} is not within 1..{_MOST_MEMORY}")
        return cls(float(smoothing), float(blur), texture, memory)
