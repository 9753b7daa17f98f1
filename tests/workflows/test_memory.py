from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd_cli.workflows.memory import MIB, MemoryPlan


def plan(budget: int, **changes: object) -> MemoryPlan:
    given_ = {"window": None, "bands": 3, "halo": 16, "holes": True, "workers": [1], "threads": 2, "scene_width": 10980}
    given_ |= changes
    given_["mapper"] = SimpleNamespace(
        halo=given_.pop("halo"), callers=given_.pop("threads"), ahead=given_.pop("ahead", 1)
    )
    return MemoryPlan.of(budget * MIB, **given_)  # type: ignore[arg-type]


@given(
    budget=st.integers(64, 10_000),
    bands=st.integers(1, 500),
    halo=st.integers(1, 160),
    holes=st.booleans(),
    workers=st.lists(st.integers(1, 16), min_size=1, max_size=4),
    threads=st.integers(1, 128),
    scene_width=st.integers(1, 200_000),
)
def test_windows_are_whole_blocks_and_keep_within_the_budget_if_any_can(budget: int, **facts: object) -> None:
    found = plan(budget, **facts)
    assert found.window in (512, 1024, 1536, 2048)
    assert found.expected <= budget * MIB or found.window == 512
    assert 32 * MIB <= found.cache <= min(max(budget * MIB // 4, 32 * MIB), 1024 * MIB)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"bands": 3}, {"bands": 30}),
        ({"workers": [1]}, {"workers": [8]}),
        ({"threads": 1}, {"threads": 64}),
        ({"ahead": 1}, {"ahead": 8}),
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


def test_fewer_threads_read_where_the_memory_is_short() -> None:
    assert plan(2048, workers=[4, 3, 2, 1]).workers == 4
    assert plan(256, bands=60, workers=[4, 3, 2, 1]).workers == 1
    assert plan(64, bands=200, workers=[8]).workers == 8  # a wish is kept, and the excess is told
    assert plan(64, bands=200, workers=[8]).expected > 64 * MIB
