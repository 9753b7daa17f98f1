"""Running `asd predict` on a target of its own, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asd_cli.errors import AsdError
from asd_cli.options import PredictOptions
from asd_cli.workflows.predict import PredictReport, predict

Files = dict[str, bytes]


def run(options: PredictOptions, out: Path, **changes: Any) -> PredictReport:
    return predict(replace(options, output=str(out), **changes))[0]


def files(out: Path) -> Files:
    """Those beside a target, by name."""
    return {path.name: path.read_bytes() for path in out.parent.iterdir()}


def refusal(
    kind: type[AsdError], options: PredictOptions, out: Path, *, leaves_parts: bool = False, **changes: Any
) -> str:
    """The text of the error; nothing may be changed, unless parts may be left."""
    before = _times(out.parent)
    with pytest.raises(kind) as caught:
        run(options, out, **changes)
    if not leaves_parts:
        after = {path: time for path, time in _times(out.parent).items() if path.is_file() or path not in before}
        assert after == {path: time for path, time in before.items() if path.is_file()}
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if not path.name.startswith("lock")}
