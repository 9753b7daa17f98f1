from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd_cli.workflows.memory import MIB, MemoryPlan


def plan(budget: int, **changes: object) -> MemoryPlan:
    given_ = {"window": None, "bands": 3, "halo": 16, "holes": True, "workers": 1, "scene_width": 10980, **changes}
    return MemoryPlan.of(budget * MIB, **given_)  # type: ignore[arg-type]


@given(
    budget=st.integers(64, 10_000),
    bands=st.integers(1, 500),
    halo=st.integers(1, 160),
    holes=st.booleans(),
    workers=st.integers(1, 16),
    scene_width=st.integers(1, 200_000),
)
def test_windows_are_whole_blocks_and_keep_within_the_budget_if_any_can(budget: int, **facts: object) -> None:
    found = plan(budget, **facts)
    assert found.window in (512, 1024, 1536, 2048)
    assert found.expected <= budget * MIB or found.window == 512
    assert 32 * MIB <= found.cache <= max(budget * MIB // 4, 32 * MIB)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"bands": 3}, {"bands": 30}),
        ({"workers": 1}, {"workers": 8}),
        ({"holes": False}, {"holes": True}),
        ({"scene_width": 10_000}, {"scene_width": 10_000_000}),
    ],
)
def test_what_needs_more_gets_smaller_windows_or_expects_more(less: dict[str, object], more: dict[str, object]) -> None:
    small, large = plan(512, **less), plan(512, **more)
    assert large.window < small.window or large.expected > small.expected


def test_more_memory_gives_larger_windows_up_to_a_limit() -> None:
    sizes = [plan(budget).window for budget in (64, 128, 256, 512, 1024, 8192)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (512, 2048)


def test_the_users_window_is_taken() -> None:
    assert plan(64, window=4096).window == 4096
