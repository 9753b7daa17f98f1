"""The error tree of ``asd``. The command line catches `AsdError` only; anything else is our bug.

::

    AsdError                 one line: what was given, where, and what to do
    ├── InputError           something the user gave cannot be used
    │   ├── RasterError      a raster: missing, damaged, complex, colour-mapped, wrong bands
    │   ├── LabelError       labels: sizes that differ, unknown class names, no field
    │   └── ModelFileError   a model file: damaged, of another version, not ours
    ├── OutputError          a result cannot be written: the disk is full
    │   └── TargetError      a target exists already, its folder is missing, its name is too long
    ├── BatchError           some scenes of a batch failed, the others did not
    └── TrainingError        nothing to train on, or training cannot go on
"""

from __future__ import annotations


def printable(text: str) -> str:
    """The text on one line: line breaks, control characters and the like, as names of files may hold, are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(error: BaseException) -> str:
    """The text of a library's error on one line; the kind of error where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


class AsdError(Exception):
    """Base of every error that `asd` raises on purpose; its text is one line for the user."""

    exit_code = 1

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


class InputError(AsdError):
    """Something that the user gave cannot be used."""


class RasterError(InputError):
    """A raster is missing, damaged, of an unsupported kind, or does not fit the model."""


class LabelError(InputError):
    """Labels are missing, do not fit their image, or name classes that are not there."""


class ModelFileError(InputError):
    """A model file is missing, damaged, of another version, or not ours."""


class OutputError(AsdError):
    """A result cannot be written."""


class TargetError(OutputError):
    """A target cannot be used, which shows before any work; other targets may be."""


class BatchError(AsdError):
    """Scenes of a batch failed: exit code 3, or 1 where no scene went well."""

    def __init__(self, text: str, *, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class TrainingError(AsdError):
    """Training cannot start or cannot go on."""
