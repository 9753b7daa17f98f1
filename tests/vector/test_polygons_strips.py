from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd_cli.vector import strips
from asd_cli.vector.strips import WindowRow


@given(
    height=st.integers(1, 40),
    widths=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    share=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    seed=st.integers(0, 99),
    limit=st.sampled_from([1, 100, 1000, 1 << 22]),
)
def test_strips_give_back_the_rows(height: int, widths: list[int], share: float, seed: int, limit: int) -> None:
    random = np.random.default_rng(seed)
    shape = (height, sum(widths))
    mask, score = random.random(shape) < share, random.random(shape).astype(np.float32)
    row = WindowRow(shape[1], height)
    for start, stop in zip(np.cumsum([0, *widths[:-1]]), np.cumsum(widths), strict=True):
        assert row.filled == start
        row.add(mask[:, start:stop], score[:, start:stop])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "_STRIP_PIXELS", limit)
        parts = list(row.strips())
    assert max(len(part) for part, _ in parts) <= max(1, limit // shape[1])
    np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), mask)
    np.testing.assert_array_equal(np.concatenate([scores for _, scores in parts]), score[mask])
