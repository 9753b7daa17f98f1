"""Checkpoints of a small module: exact, whole or absent, refused when they do not fit."""

from pathlib import Path

import pytest
import torch
from torch import nn

from asd_cli.errors import OutputError, TrainingError
from asd_cli.workflows.checkpoint import Checkpoint, Progress


def trained(seed: int, width: int = 3) -> tuple[nn.Module, torch.optim.Adam]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Conv2d(2, width, 3), nn.BatchNorm2d(width)).to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            module(torch.randn(2, 2, 8, 8)).square().sum().backward()
            optimizer.step()
    return module, optimizer


PROGRESS = Progress(7, ({"epoch": 1, "loss": 0.1 + 0.2, "held_out": float("inf")},), {"loss": 1 / 3})


def test_restore_gives_back_everything_exactly(tmp_path: Path) -> None:
    module, optimizer = trained(0)
    Checkpoint(tmp_path / "c", {"seed": 0}).save(module, optimizer, PROGRESS)
    other, other_optimizer = trained(1)
    assert Checkpoint(tmp_path / "c", {"seed": 0}).restore(other, other_optimizer) == PROGRESS
    for key, value in module.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    mine, theirs = (o.state_dict()["state"] for o in (optimizer, other_optimizer))
    assert mine.keys() == theirs.keys()
    for index, state in mine.items():
        for key, value in state.items():
            assert torch.equal(theirs[index][key], value), key
            assert theirs[index][key].stride() == value.stride(), key
            assert theirs[index][key].dtype == value.dtype, key


def test_save_before_the_first_step(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(module.parameters())
    checkpoint = Checkpoint(tmp_path / "c", {})
    checkpoint.save(module, optimizer, Progress())
    assert checkpoint.restore(module, optimizer) == Progress()
    assert optimizer.state_dict()["state"] == {}


def test_other_fingerprint_is_named(tmp_path: Path) -> None:
    module, optimizer = trained(0)
    Checkpoint(tmp_path / "c", {"--seed": 0, "tiles": ["a", "b"], "--crop": 64}).save(module, optimizer, PROGRESS)
    with pytest.raises(TrainingError, match=r"/c: cannot resume, .* made with other --seed, tiles; give the same, or "):
        Checkpoint(tmp_path / "c", {"--seed": 1, "tiles": ["a"], "--crop": 64}).restore(module, optimizer)
    with pytest.raises(TrainingError, match="made with other --crop, --new;"):
        Checkpoint(tmp_path / "c", {"--seed": 0, "tiles": ("a", "b"), "--new": 1}).restore(module, optimizer)


def test_other_architecture_is_damage(tmp_path: Path) -> None:
    module, optimizer = trained(0)
    checkpoint = Checkpoint(tmp_path / "c", {})
    checkpoint.save(module, optimizer, PROGRESS)
    with pytest.raises(TrainingError, match=r"damaged checkpoint \(.*size mismatch"):
        checkpoint.restore(*trained(0, width=4))


def test_every_cut_and_flip_is_noticed(tmp_path: Path) -> None:
    module, optimizer = trained(0)
    checkpoint = Checkpoint(tmp_path / "c", {"seed": 0})
    checkpoint.save(module, optimizer, PROGRESS)
    whole = checkpoint.path.read_bytes()
    for place in range(0, len(whole), len(whole) // 60):
        checkpoint.path.write_bytes(whole[:place])
        with pytest.raises(TrainingError):
            checkpoint.restore(module, optimizer)
        flipped = bytearray(whole)
        flipped[place] ^= 0x15
        checkpoint.path.write_bytes(flipped)
        with pytest.raises(TrainingError) as caught:
            checkpoint.restore(module, optimizer)
        assert "\n" not in str(caught.value)


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    module, optimizer = trained(0)
    checkpoint = Checkpoint(tmp_path / "c", {})
    checkpoint.save(module, optimizer, PROGRESS)
    before = checkpoint.path.read_bytes()

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OutputError, match=r"/c: the checkpoint cannot be written \(.*No space left"):
        checkpoint.save(module, optimizer, Progress(8))
    assert checkpoint.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    checkpoint.remove()
    checkpoint.remove()
    assert not list(tmp_path.iterdir())
