"""The state of an unfinished training beside its target: weights, optimizer, position. A safetensors file, whole or
absent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asd_cli.errors import OutputError, TrainingError, one_line


@dataclass(frozen=True)
class Progress:
    """Where a training stands: steps done, the rows of its log so far, and the sums of the losses of the epoch that
    is under way."""

    step: int = 0
    rows: tuple[dict[str, float], ...] = ()
    sums: dict[str, float] = field(default_factory=dict)


class Checkpoint:
    """Saves and restores a module and its optimizer; `fingerprint` tells whether a saved state belongs to this
    training."""

    def __init__(self, path: Path, fingerprint: Mapping[str, Any]) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.part")
        self._fingerprint = json.loads(json.dumps(fingerprint, sort_keys=True))

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Replace the file by the present state.

        Raises:
            OutputError: it cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors = {f"module.{k}": v for k, v in module.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        note = {
            "fingerprint": self._fingerprint,
            "step": progress.step,
            "rows": list(progress.rows),
            "sums": progress.sums,
        }
        text = json.dumps(note)
        try:
            save_file(tensors, self._temporary, metadata={"asd": text, "digest": _digest(text, tensors)})
            self._temporary.replace(self.path)
        except (OSError, SafetensorError) as error:
            self._temporary.unlink(missing_ok=True)
            raise OutputError(f"{self.path}: the checkpoint cannot be written ({error}); is the disk full?") from error

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        """Load the saved state into module and optimizer.

        Raises:
            TrainingError: the file is damaged, or belongs to a training with other tiles or options (the text names
            them).
        """
        from safetensors import SafetensorError

        try:
            note, tensors = self._read()
            progress = Progress(int(note["step"]), tuple(note["rows"]), dict(note["sums"]))
            fingerprint = dict(note["fingerprint"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise self._damaged(error) from error
        self._compare(fingerprint)
        try:
            state = {k.removeprefix("module."): v for k, v in tensors.items() if k.startswith("module.")}
            module.load_state_dict(state)
            _restore_optimizer(optimizer, tensors)
        except (RuntimeError, KeyError, ValueError, IndexError) as error:
            raise self._damaged(error) from error
        return progress

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as file:
            text, digest = (file.metadata()[key] for key in ("asd", "digest"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if digest != _digest(text, tensors):
            raise ValueError("not as it was written")
        return json.loads(text), tensors

    def _damaged(self, error: Exception) -> TrainingError:
        reason = one_line(error)[:200]
        return TrainingError(f"{self.path}: damaged checkpoint ({reason}); start over with --overwrite, not --resume")

    def _compare(self, saved: Mapping[str, Any]) -> None:
        odd = sorted(k for k in set(saved) | set(self._fingerprint) if saved.get(k) != self._fingerprint.get(k))
        if odd:
            raise TrainingError(
                f"{self.path}: cannot resume, the checkpoint was made with other {', '.join(odd)}; "
                "give the same, or start over with --overwrite, not --resume"
            )

    def remove(self) -> None:
        """Forget the saved state."""
        self.path.unlink(missing_ok=True)
        self._temporary.unlink(missing_ok=True)


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            like = parameters[int(index)]
            # in the parameter's own memory layout, so that the arithmetic goes on exactly as it would have
            state.setdefault(int(index), {})[name] = (
                torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            )
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)} ".encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
