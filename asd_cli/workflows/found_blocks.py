"""Bad blocks of a scene, kept with the parts that were made in spite of them: a run that goes on must tell of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from asd_cli.errors import InputError, OutputError
from asd_cli.raster.findings import BadBlock, Findings
from asd_cli.staging import write_beside

_FILES = "bad_blocks*.json"


class FoundBlocks:
    """Keeps the bad blocks of `findings` in the folder of the parts; each process in a file `name` of its own."""

    def __init__(self, folder: Path, name: str, findings: Findings) -> None:
        self._folder, self._path, self._findings = folder, folder / name, findings
        self._kept = 0

    def restore(self) -> None:
        """Take over what other runs have kept.

        Raises:
            InputError: a file is damaged.
        """
        for path in sorted(self._folder.glob(_FILES)):
            try:
                self._take(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}: is damaged; remove the folder and start again") from error

    def add(self, blocks: Iterable[Mapping[str, Any]]) -> None:
        """Take over what a worker has found, as fields of `BadBlock`, and keep it."""
        self._take(blocks)
        self.keep()

    def _take(self, blocks: Iterable[Mapping[str, Any]]) -> None:
        for block in blocks:
            self._findings.add_bad(BadBlock(**{**block, "bands": tuple(block["bands"])}))

    def keep(self) -> None:
        """Write down what is new; to be called before a part is kept that it concerns.

        Raises:
            OutputError: it cannot be written.
        """
        blocks = self._findings.bad_blocks()
        if len(blocks) == self._kept:
            return
        text = json.dumps([{**block.as_json(), "reason": block.reason} for block in blocks])
        try:
            write_beside(self._path, text.encode()).replace(self._path)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({error.strerror}); check the disk") from error
        self._kept = len(blocks)
