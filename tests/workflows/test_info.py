from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from asd_cli.cli import main
from asd_cli.errors import ModelFileError
from asd_cli.workflows.info import describe_model


def test_what_a_model_file_tells(tiny_model: Path) -> None:
    facts = describe_model(tiny_model)
    assert facts["file"] == str(tiny_model)
    assert facts["bytes"] == tiny_model.stat().st_size
    assert facts["sha256"] == hashlib.sha256(tiny_model.read_bytes()).hexdigest()
    assert facts["method"] == "asd"
    assert (facts["length"], facts["patch_size"], list(facts["scales"])) == (5, 15, [0.5, 1, 2])
    assert facts["normal"] == ["forest"]
    assert facts["bands"] == ["band 1", "band 2", "band 3"]
    assert facts["band_indexes"] == [1, 2, 3]
    assert facts["dtype"] == "uint8"
    assert facts["pixel_size_m"] == 0.5
    assert facts["false_alarm_rate"] == 0.001
    assert facts["threshold_distance"] > 0
    assert facts["held_out_pixels"] > 0
    assert facts["training_steps"] == 30
    assert facts["held_out_median"] > 0


def test_as_text_and_as_json(tiny_model: Path) -> None:
    facts = describe_model(tiny_model)
    done = CliRunner().invoke(main, ["info", str(tiny_model), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == json.loads(json.dumps(facts))
    done = CliRunner().invoke(main, ["info", str(tiny_model)])
    assert done.stderr == ""
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert list(lines) == list(facts)
    assert lines["bands"] == "band 1, band 2, band 3"
    assert lines["scales"] == "0.5, 1, 2"
    assert lines["normal"] == "forest"
    assert not any(sign in done.stdout for sign in "[]{}'")


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_damaged_files(keep: int, tiny_model: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(tiny_model.read_bytes()[:keep])
    with pytest.raises(ModelFileError, match=r"torn\.safetensors: "):
        describe_model(torn)
    done = CliRunner().invoke(main, ["info", str(torn)])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"Error: {torn}: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_flipped_bit_shows(tiny_model: Path, tmp_path: Path) -> None:
    raw = bytearray(tiny_model.read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(raw)
    with pytest.raises(ModelFileError, match=r"flipped\.safetensors: "):
        describe_model(tmp_path / "flipped.safetensors")


def test_files_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"nowhere\.safetensors: no such model file$"):
        describe_model(tmp_path / "nowhere.safetensors")
    with pytest.raises(ModelFileError, match=r": no such model file$"):
        describe_model(tmp_path)
    (tmp_path / "note.txt").write_text("a text that is longer than eight bytes")
    with pytest.raises(ModelFileError, match=r"note\.txt: not a model file"):
        describe_model(tmp_path / "note.txt")
