"""The command line. Click only: each command parses, calls one workflow (imported inside its body) and prints."""

from asd_cli.cli.main import main

__all__ = ["main"]
