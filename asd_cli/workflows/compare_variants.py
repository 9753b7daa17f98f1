"""The rows of a comparison: methods, variants of methods, and the ablation, each as options of one training."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

from asd_cli.errors import InputError
from asd_cli.methods.registry import METHODS, method_class
from asd_cli.options import LOSSES, CompareOptions, TrainOptions, Variant

_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*")


def ablation() -> Iterator[Variant]:
    """ASD with each combination of its losses, as in Table 4 of the paper (AAAI 2023), named by those that are on."""
    for count in range(1, len(LOSSES) + 1):
        for used in combinations(LOSSES, count):
            changes = (("method", "asd"), ("without", tuple(loss for loss in LOSSES if loss not in used)))
            yield Variant("+".join(used), changes)


def trainings(options: CompareOptions) -> dict[str, TrainOptions]:
    """What is trained, by the name of its row; tiles and target are left open.

    Raises:
        InputError: an unknown method, a name that is given twice or is no file name, a setting of a method that is not
            compared, or options that a method cannot be trained with.
    """
    base = TrainOptions(
        tiles=options.tiles,
        recipe=options.recipe,
        steps=options.steps,
        holdout=options.holdout,
        false_alarm_rate=options.false_alarm_rate,
        seed=options.seed,
        device=options.device,
    )
    found: dict[str, TrainOptions] = {}
    for variant in _variants(options):
        if variant.name in found:
            raise InputError(f"{variant.name}: stands for two rows; give one of them another name (--variant NAME=...)")
        if not _NAME.fullmatch(variant.name):
            raise InputError(f"--variant {variant.name}: is no name; use letters, digits and any of . _ + -")
        found[variant.name] = replace(base, **dict(variant.changes))
    settings = _settings(options, {training.method for training in found.values()})
    for name, training in found.items():
        shared = tuple(settings.get(training.method, ()))
        found[name] = replace(training, method_options=(*shared, *training.method_options))
        _check(name, found[name])
    return found


def _variants(options: CompareOptions) -> Iterator[Variant]:
    named = options.methods or (() if options.variants or options.ablation else tuple(METHODS))
    yield from (Variant(name, (("method", name),)) for name in named)
    yield from options.variants
    if options.ablation:
        yield from ablation()


def _settings(options: CompareOptions, methods: set[str]) -> dict[str, list[tuple[str, str]]]:
    """``-O METHOD:KEY=VALUE`` by method."""
    found: dict[str, list[tuple[str, str]]] = {}
    for key, value in options.method_options:
        method, colon, setting = key.partition(":")
        if not (colon and setting):
            raise InputError(f"--option {key}={value}: say whose setting it is, METHOD:KEY=VALUE such as asd:{key}=...")
        if method not in methods:
            raise InputError(f"--option {key}={value}: {method} is not compared; methods: {', '.join(sorted(methods))}")
        found.setdefault(method, []).append((setting, value))
    return found


def _check(name: str, training: TrainOptions) -> None:
    """Have the method look at its options before any work."""
    try:
        method_class(training.method).plan(training)
    except InputError as error:
        raise InputError(f"{name}: {error}" if name != training.method else str(error)) from error
