"""In place of `remote.make_part`: workers with something wrong. A module of its own, as new workers import it."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from asd_cli.workflows.remote import Done, Errand, make_part


def deadly(errand: Errand, box: tuple[int, int, int, int]) -> Done:
    """One part ends the worker."""
    if box[:2] == (0, 512):
        os.kill(os.getpid(), signal.SIGKILL)
    return make_part(errand, box)


def without_scene(errand: Errand, box: tuple[int, int, int, int]) -> Done:
    return make_part(replace(errand, scene="/elsewhere/scene.tif"), box)


def without_folder(errand: Errand, box: tuple[int, int, int, int]) -> Done:
    return make_part(replace(errand, job_file="/elsewhere/job.json"), box)


def without_model(errand: Errand, box: tuple[int, int, int, int]) -> Done:
    return make_part(replace(errand, options=replace(errand.options, model=Path("/elsewhere/m.safetensors"))), box)


def with_other_library(errand: Errand, box: tuple[int, int, int, int]) -> Done:
    import asd_cli.workflows.fingerprint as fingerprints

    try:
        fingerprints.version = lambda library: "2.6.0"
        return make_part(errand, box)
    finally:
        fingerprints.version = metadata.version


def without_module(errand: Errand, box: tuple[int, int, int, int]) -> Done:
    raise ModuleNotFoundError("No module named 'asd_cli.workflows.remote'")
