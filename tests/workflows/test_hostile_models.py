"""Model files from many hands: each is used as a model is, or refused in one line; none is trusted."""

from __future__ import annotations

import copy
import os
import resource
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_timm
import hostile
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asd_cli.errors import ModelFileError
from asd_cli.raster.scene import Chip
from asd_cli.workflows.info import describe_model
from asd_cli.workflows.models import load_model
from asd_cli.workflows.scores import ScoreScale

KINDS = sorted(hostile.CONFIGS)
ENDINGS: Counter[str] = Counter()
MANY = settings(
    max_examples=settings.default.max_examples,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
FEW = settings(MANY, max_examples=max(settings.default.max_examples // 2, 1))


@pytest.fixture(scope="module", autouse=True)
def small_networks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        fake_timm.install(patch)
        yield


@pytest.fixture(scope="module")
def parts(small_networks: None) -> dict[str, tuple[dict[str, Any], hostile.Arrays]]:
    return {kind: hostile.tiny_parts(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "model.safetensors"


@pytest.fixture(scope="module", autouse=True)
def tally() -> Iterator[None]:
    """How the files ended, where ASD_TALLY names a file to add it to."""
    yield
    if "ASD_TALLY" in os.environ:
        with Path(os.environ["ASD_TALLY"]).open("a") as file:
            file.writelines(f"model\t{count}\t{ending}\n" for ending, count in ENDINGS.most_common())


def outcome(path: Path, content: bytes, origin: str) -> str:
    """How a file ends: "used", or the text of the error; anything else fails the test."""
    path.write_bytes(content)
    try:
        used(path)
        ending = "used"
    except ModelFileError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017
        assert str(error).isprintable()  # noqa: PT017
        ending = "refused"
    ENDINGS[f"{origin}: {ending}"] += 1
    return ending


def used(path: Path) -> None:
    """Load a model and score a chip as `predict` does."""
    model = load_model(path)
    assert describe_model(path)["sha256"] == model.sha256
    scale = ScoreScale.build("unit", model.calibration, rate=model.calibration.false_alarm_rate, threshold=None)
    with model.mapper(torch.device("cpu"), threads=1) as mapper:
        side = mapper.block + 2 * mapper.halo
        pixels = np.random.default_rng(0).uniform(0, 255, (model.detector.bands, side, side)).astype(np.float32)
        found = mapper(Chip(pixels, np.ones((side, side), bool)))
    assert found.shape == (1, mapper.block, mapper.block)
    scores = scale.scores(found)
    assert scores.dtype == np.float32
    assert (np.isnan(scores) | ((scores >= 0) & (scores < 1))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_are_used(kind: str, parts: Any, path: Path) -> None:
    assert outcome(path, hostile.signed(*parts[kind]), "whole") == "used"


def test_files_of_other_kinds(parts: Any, path: Path) -> None:
    for name, content in hostile.other_files(hostile.signed(*parts["rx"])).items():
        assert outcome(path, content, "other kind") == "refused", name


@MANY
@given(kind=st.sampled_from(KINDS), data=st.data())
def test_edited_headers(parts: Any, path: Path, kind: str, data: st.DataObject) -> None:
    header, arrays = parts[kind]
    header = copy.deepcopy(header)
    for _ in range(data.draw(st.integers(1, 2))):
        hostile.edit_header(data.draw, header)
    outcome(path, hostile.signed(header, arrays), "header edited")


@MANY
@given(kind=st.sampled_from(KINDS), data=st.data())
def test_edited_tensors(parts: Any, path: Path, kind: str, data: st.DataObject) -> None:
    header, arrays = parts[kind]
    arrays = dict(arrays)
    for _ in range(data.draw(st.integers(1, 2))):
        hostile.edit_arrays(data.draw, arrays)
    outcome(path, hostile.signed(header, arrays), "tensors edited")


@MANY
@given(kind=st.sampled_from(KINDS), data=st.data())
def test_damaged_bytes(parts: Any, path: Path, kind: str, data: st.DataObject) -> None:
    whole = hostile.signed(*parts[kind])
    content = hostile.edit_bytes(data.draw, whole)
    outcome(path, content, "bytes damaged")


@FEW
@given(kind=st.sampled_from(KINDS), data=st.data())
def test_edited_tables_of_tensors(parts: Any, path: Path, kind: str, data: st.DataObject) -> None:
    outcome(path, hostile.edit_plan(data.draw, hostile.signed(*parts[kind])), "table edited")


@pytest.mark.parametrize("kind", ["asd localised", "rx", "padim", "riad"])
def test_a_claim_of_many_bands_takes_no_memory(parts: Any, path: Path, kind: str) -> None:
    header, arrays = copy.deepcopy(parts[kind])
    names = [""] * 4096
    header["bands"] |= {"count": 4096, "indexes": list(range(1, 4097)), "names": names, "of": 4096}
    content = hostile.signed(header, arrays)
    with resident() as grown:
        tracemalloc.start()
        assert outcome(path, content, "many bands") == "refused"
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20e6
    assert grown() < 60e6


@contextmanager
def resident() -> Iterator[Callable[[], int]]:
    """How many bytes the peak of this process's memory has grown since."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield lambda: 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


@pytest.mark.parametrize(
    "name", ["hf-hub:someone/net", "hf_hub:someone/net", "local-dir:/tmp", "../net", "", "a b", 3, None]
)
def test_a_backbone_that_timm_would_fetch(parts: Any, path: Path, name: Any) -> None:
    header, arrays = copy.deepcopy(parts["padim"])
    header["config"]["backbone"] = name
    path.write_bytes(hostile.signed(header, arrays))
    with pytest.raises(ModelFileError, match="is no plain name of a network of timm"):
        load_model(path)


def test_a_header_nested_deeply_or_with_half_characters(parts: Any, path: Path) -> None:
    for value, text in ((hostile.nested(17), "not one that asd wrote"), ("\ud800", "unreadable header")):
        header, arrays = copy.deepcopy(parts["rx"])
        header["training"] = {"more": value}
        path.write_bytes(hostile.signed(header, arrays))
        with pytest.raises(ModelFileError, match=text):
            load_model(path)
