"""The state of an unfinished training beside its target: weights, optimizer, position. A safetensors file, whole or
absent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asd_cli.errors import TrainingError


@dataclass(frozen=True)
class Progress:
    """Where a training stands: steps done and the rows of its log so far."""

    step: int = 0
    rows: tuple[dict[str, float], ...] = ()


class Checkpoint:
    """Saves and restores a module and its optimizer; `fingerprint` tells whether a saved state belongs to this
    training."""

    def __init__(self, path: Path, fingerprint: Mapping[str, Any]) -> None:
        self.path = path
        self._fingerprint = json.loads(json.dumps(fingerprint, sort_keys=True))

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Replace the file by the present state."""
        from safetensors.torch import save_file

        tensors = {f"module.{k}": v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value).detach().cpu().contiguous().clone()
        note = {"fingerprint": self._fingerprint, "step": progress.step, "rows": list(progress.rows)}
        temporary = self.path.with_name(f"{self.path.name}.part")
        save_file(tensors, temporary, metadata={"asd": json.dumps(note)})
        temporary.replace(self.path)

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        """Load the saved state into module and optimizer.

        Raises:
            TrainingError: the file is damaged, or belongs to a training with other tiles or options (the text names
            them).
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                note = json.loads(file.metadata()["asd"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise TrainingError(f"{self.path}: damaged checkpoint ({error}); remove it or add --overwrite") from error
        self._compare(note["fingerprint"])
        module.load_state_dict({k.removeprefix("module."): v for k, v in tensors.items() if k.startswith("module.")})
        self._restore_optimizer(optimizer, tensors)
        return Progress(int(note["step"]), tuple(note["rows"]))

    def _compare(self, saved: Mapping[str, Any]) -> None:
        odd = sorted(k for k in set(saved) | set(self._fingerprint) if saved.get(k) != self._fingerprint.get(k))
        if odd:
            raise TrainingError(
                f"{self.path}: cannot resume, the checkpoint was made with other {', '.join(odd)}; "
                "give the same options, or start over with --overwrite"
            )

    @staticmethod
    def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def remove(self) -> None:
        """Forget the saved state."""
        self.path.unlink(missing_ok=True)
