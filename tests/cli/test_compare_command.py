"""`asd compare` as a command: variants, output, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from asd_cli.cli import main
from asd_cli.errors import TrainingError
from asd_cli.options import Variant


def parsed(*words: str) -> dict[str, Any]:
    return dict(main.commands["compare"].make_context("compare", ["tiles", *words]).params)


def test_a_variant_holds_what_its_options_say() -> None:
    given = parsed("--variant", 'wide = --length 8 --scales 1,2 -O "a=b c"', "--variant", "same=")
    settings = (("length", 8), ("method_options", (("a", "b c"),)), ("scales", (1.0, 2.0)))
    assert given["variants"] == (Variant("wide", settings), Variant("same"))
    assert parsed("--variant", "q=--recipe quick")["variants"] == (Variant("q", (("recipe", "quick"),)),)
    assert parsed("--methods", "asd, rx,asd")["methods"] == ("asd", "rx")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--length 8", "'--length 8' is not of the form NAME="),
        ("long", "'long' is not of the form NAME="),
        ("long=--stepz 8", "long: No such option"),
        ("long=--steps 0", "long: 0 is not in the range"),
        ("long=--seed 3", "long: --seed is shared by all rows; give it to asd compare"),
        ("long=--output a.safetensors", "long: --output is shared by all rows"),
        ("long=other", "long: 'other' is no option of asd train"),
        ("long='", "long: No closing quotation"),
    ],
)
def test_variants_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(click.BadParameter) as error:
        parsed("--variant", text)
    assert message in error.value.message


@pytest.fixture
def small(make_tiles: Callable[..., Path], make_texture: Callable[..., Any], tmp_path: Path) -> Path:
    label = np.ones((40, 40), np.uint8)
    label[30:] = 2
    return make_tiles(tmp_path / "tiles", [make_texture(seed, 1, 40, 40) for seed in range(4)], [label] * 4)


def run(small: Path, *words: str) -> Result:
    output = str(small.parent / "report")
    shared = ["--normal", "forest", "-o", output, "--steps", "1", "--maps", "0", "--device", "cpu"]
    return CliRunner().invoke(main, ["compare", str(small), *shared, *words])


def test_the_table_goes_to_standard_output(small: Path) -> None:
    done = run(small, "--methods", "asd")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["AUC", "AP", "mIoU*", "mIoU", "F1", "AUPRO", "train", "s", "Mpx/s", "model", "KiB"]
    assert lines[1].startswith("asd")
    assert lines[2].startswith("2 training and 2 test tiles; * oracle")
    again = json.loads(run(small, "--methods", "asd", "--json").stdout)
    assert f"{again['rows'][0]['mean']['auc']:.3f}" == lines[1].split()[1]


def test_the_exit_code_is_1_only_if_every_row_fails(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from asd_cli.workflows import compare_runs

    real = compare_runs.train

    def train(options: Any, **given: Any) -> Any:
        if options.length == 2:
            raise TrainingError("no light")
        return real(options, **given)

    monkeypatch.setattr(compare_runs, "train", train)
    done = run(small, "--variant", "two=--length 2", "--variant", "three=--length 3")
    assert done.exit_code == 0
    assert "Warning: 1 of 2 rows failed: two" in done.stderr
    done = run(small, "--variant", "two=--length 2")
    assert done.exit_code == 1
    assert "two failed: first-half: no light" in done.stdout


def test_the_ablation_is_one_command(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(small, "--ablation")
    assert done.exit_code == 0, done.output
    rows = [line.split()[0] for line in done.stdout.splitlines()[1:8]]
    assert rows[0] == "compact"
    assert rows[-1] == "compact+diverse+feature-rich"
    assert "failed" not in done.stdout
