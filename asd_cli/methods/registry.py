"""The methods by name; a method's module, and torch with it, is imported when it is chosen."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from asd_cli.errors import InputError

if TYPE_CHECKING:
    from asd_cli.methods.base import Detector

METHODS = {
    "arnet": "asd_cli.methods.arnet:ArnetMethod",
    "asd": "asd_cli.methods.asd.method:AsdMethod",
    "dsvdd": "asd_cli.methods.dsvdd:DsvddMethod",
    "ganomaly": "asd_cli.methods.ganomaly:GanomalyMethod",
    "padim": "asd_cli.methods.padim:Padim",
    "patchcore": "asd_cli.methods.patchcore:PatchCore",
    "riad": "asd_cli.methods.riad:RiadMethod",
    "rx": "asd_cli.methods.rx.method:RxMethod",
}


def method_class(name: str) -> type[Detector]:
    """Class of a method.

    Raises:
        InputError: there is no such method; the text lists those that are.
    """
    if name not in METHODS:
        raise InputError(f"method {name!r}: not known; methods: {', '.join(sorted(METHODS))}")
    module, _, attribute = METHODS[name].partition(":")
    found: type[Detector] = getattr(importlib.import_module(module), attribute)
    return found
