"""Which rows and which splits the options of `asd compare` stand for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asd_cli.errors import InputError
from asd_cli.methods.asd.method import AsdMethod
from asd_cli.methods.registry import METHODS
from asd_cli.options import CompareOptions, TileOptions, TrainOptions, Variant
from asd_cli.workflows.compare_splits import Split, drawn, splits_of
from asd_cli.workflows.compare_variants import planned
from asd_cli.workflows.tilesets import open_tiles

BASE = CompareOptions(seed=7, steps=12, methods=("asd",))


def trainings(options: CompareOptions) -> dict[str, TrainOptions]:
    """What is trained, where no method refuses."""
    found = planned(options)
    assert not found.refused
    return dict(found.trainings)


def test_a_method_is_trained_with_the_shared_options() -> None:
    assert trainings(BASE) == {"asd": TrainOptions(seed=7, steps=12)}
    assert list(planned(replace(BASE, methods=())).trainings) == list(METHODS)


def test_variants_change_what_they_say() -> None:
    long = Variant("long", (("recipe", "quick"), ("steps", 30), ("without", ("diverse",))))
    found = trainings(replace(BASE, methods=(), variants=(long,)))
    assert found == {"long": TrainOptions(seed=7, steps=30, recipe="quick", without=("diverse",))}


def test_the_ablation_is_every_combination_of_the_losses() -> None:
    found = trainings(replace(BASE, methods=(), ablation=True))
    assert {name: training.without for name, training in found.items()} == {
        "compact": ("diverse", "feature-rich"),
        "diverse": ("compact", "feature-rich"),
        "feature-rich": ("compact", "diverse"),
        "compact+diverse": ("feature-rich",),
        "compact+feature-rich": ("diverse",),
        "diverse+feature-rich": ("compact",),
        "compact+diverse+feature-rich": (),
    }
    assert {training.recipe for training in found.values()} == {"quick"}
    asked = trainings(replace(BASE, methods=(), ablation=True, recipe="paper"))
    assert {training.recipe for training in asked.values()} == {"paper"}


def test_settings_go_to_their_method_and_a_variant_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asd_cli.methods.asd.method.AsdMethod.plan", lambda options: None)
    own = Variant("own", (("method_options", (("a", "2"),)),))
    found = trainings(replace(BASE, variants=(own,), method_options=(("asd:a", "1"), ("asd:b", "c:d"))))
    assert found["asd"].method_options == (("a", "1"), ("b", "c:d"))
    assert found["own"].method_options == (("a", "1"), ("b", "c:d"), ("a", "2"))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"methods": ("rex",)}, "method 'rex': not known; methods: "),
        (
            {"method_options": (("mode", "x"),)},
            "--option mode=x: say whose setting it is, METHOD:KEY=VALUE such as asd:",
        ),
        ({"method_options": (("rex:mode", "x"),)}, "--option rex:mode=x: rex is not compared; methods: asd"),
        ({"method_options": (("asd:mode", "x"),)}, "--option mode: not known to the method asd; it has: none"),
        ({"variants": (Variant("a"), Variant("a"))}, "a: stands for two rows; give one of them another name"),
        ({"variants": (Variant("../a"),)}, r"--variant \.\./a: is no name; use letters, digits"),
        ({"variants": (Variant("wide", (("length", 300),)),)}, "wide: --.*length 300"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_any_work(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        planned(replace(BASE, **{"methods": () if "variants" in changes else ("asd",), **changes}))


class Fitted(AsdMethod):
    """Knows neither steps nor another recipe; its only setting is `mode`."""

    @classmethod
    def plan(cls, options: TrainOptions) -> Any:
        if options.steps is not None or options.recipe != TrainOptions.recipe:
            raise InputError("there are no steps, and no other recipe")
        if options.method_options not in ((), (("mode", "x"),)):
            raise InputError("no such setting")


def test_shared_options_that_a_method_cannot_follow_are_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(METHODS, "fitted", f"{__name__}:Fitted")
    caplog.set_level(logging.INFO, "asd_cli")
    given = replace(BASE, methods=("asd", "fitted"), recipe="paper", method_options=(("fitted:mode", "x"),))
    found = trainings(given)
    assert (found["asd"].steps, found["asd"].recipe) == (12, "paper")
    assert (found["fitted"].steps, found["fitted"].recipe, found["fitted"].seed) == (None, TrainOptions.recipe, 7)
    assert "fitted: cannot follow --steps and --recipe; it does without" in caplog.text
    own = Variant("own", (("method", "fitted"), ("steps", 3)))
    wrong = planned(replace(given, variants=(own,), method_options=(("fitted:mode", "y"),)))
    assert wrong.refused == {"fitted": "no such setting", "own": "there are no steps, and no other recipe"}


@pytest.fixture(scope="module")
def folder(make_tiles: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven tiles of one band; the last has no anomalous pixel, the first two have nothing else."""
    labels = [np.full((8, 8), 1, np.uint8) for _ in range(7)]
    for place, label in enumerate(labels[:6]):
        label[: 8 if place < 2 else 2] = 2
    return make_tiles(tmp_path_factory.mktemp("splits") / "tiles", [np.ones((1, 8, 8), np.uint8)] * 7, labels)


def split(folder: Path, **options: Any) -> tuple[Split, ...]:
    given = TileOptions(tiles=(str(folder),), normal=("forest",))
    return splits_of(CompareOptions(tiles=given, **options), open_tiles(given))


def test_the_first_half_by_name_trains(folder: Path) -> None:
    assert split(folder) == (Split("first-half", (0, 1, 2), (3, 4, 5, 6)),)


def test_tiles_are_sorted_by_name_not_by_folder(make_scene: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("forest/a.tif", "forest/c.tif", "water/b.tif", "water/d.tif"):
        make_scene(tmp_path / "set" / name, np.ones((1, 8, 8), np.uint8))
    assert split(tmp_path / "set") == (Split("first-half", (0, 2), (1, 3)),)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_every_tile_tests_in_one_fold_and_trains_in_the_others(folder: Path, count: int) -> None:
    folds = split(folder, folds=count)
    assert [name.name for name in folds] == [f"fold-{place}-of-{count}" for place in range(1, count + 1)]
    assert [place for fold in folds for place in fold.test] == list(range(7))
    for fold in folds:
        assert sorted((*fold.train, *fold.test)) == list(range(7))
        assert abs(len(fold.test) - 7 / count) < 1


def test_a_fold_without_anomalies_is_warned_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    split(folder, folds=7)
    assert "fold-7-of-7: no test tile holds an anomalous pixel" in caplog.text
    assert caplog.text.count("fold-") == 1


def test_shown_tiles_have_both_classes(folder: Path) -> None:
    given = TileOptions(tiles=(str(folder),), normal=("forest",))
    tiles = open_tiles(given)
    everything = Split("all", (), tuple(range(7)))
    assert drawn(everything, tiles, 9) == (2, 3, 4, 5)
    assert drawn(everything, tiles, 2) == (2, 5)
    assert drawn(everything, tiles, 0) == ()
    assert drawn(Split("bare", (), (6,)), tiles, 3) == (6,)


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("tile_2,train\ntile_9,test\n", "there is no tile tile_9; name tiles as their files are called"),
        ("tile_2,train\n", r"no tile is for test; its lines are NAME,train or NAME,test"),
        ("tile_2,train\ntile_3;test\n", r"line 2: 'tile_3;test' is not NAME,train or NAME,test"),
        ("tile_2,train\ntile_3,test\ntile_2,test\n", "line 3: tile_2 cannot both train and test"),
        ("tile_0,train\ntile_3,test\n", r"parts: its 1 training tile\(s\) hold no normal pixel; split otherwise"),
        ("tile_2,train\ntile_6,test\n", r"parts: no test tile holds an anomalous pixel; split otherwise"),
    ],
)
def test_files_of_parts_that_cannot_be_used(folder: Path, tmp_path: Path, lines: str, text: str) -> None:
    (tmp_path / "parts.csv").write_text(lines)
    with pytest.raises(InputError, match=text):
        split(folder, split=str(tmp_path / "parts.csv"))


def test_a_part_may_not_mean_two_tiles_of_one_name(make_scene: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("forest/a.tif", "water/a.tif", "water/b.tif"):
        make_scene(tmp_path / "set" / name, np.ones((1, 8, 8), np.uint8))
    (tmp_path / "parts.csv").write_text("a,train\nb,test\n")
    with pytest.raises(InputError, match=r"a is both .*forest/a.tif and .*water/a.tif; rename one"):
        split(tmp_path / "set", split=str(tmp_path / "parts.csv"))


def test_splits_that_cannot_be_made(folder: Path) -> None:
    with pytest.raises(InputError, match="--folds 8: needs 8 tiles, 7 found; give more"):
        split(folder, folds=8)
    with pytest.raises(InputError, match="--split second-half: is neither first-half nor a text file of NAME,train"):
        split(folder, split="second-half")
