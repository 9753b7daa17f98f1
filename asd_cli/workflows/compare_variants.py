"""The rows of a comparison: methods, variants of methods, and the ablation, each as options of one training."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

from asd_cli.errors import InputError
from asd_cli.methods.base import Detector
from asd_cli.methods.registry import METHODS, method_class
from asd_cli.options import LOSSES, CompareOptions, TrainOptions, Variant

_log = logging.getLogger(__name__)
_DEFAULTS = TrainOptions()
_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*")


def ablation(recipe: str) -> Iterator[Variant]:
    """ASD with each combination of its losses, as in Table 4 of the paper (AAAI 2023), named by those that are on.

    `recipe`: the one asked for; in place of the default one, which has other losses, stands `quick`.
    """
    recipe = "quick" if recipe == _DEFAULTS.recipe else recipe
    for count in range(1, len(LOSSES) + 1):
        for used in combinations(LOSSES, count):
            changes = (
                ("method", "asd"),
                ("recipe", recipe),
                ("without", tuple(loss for loss in LOSSES if loss not in used)),
            )
            yield Variant("+".join(used), changes)


@dataclass(frozen=True)
class Planned:
    """The rows by name, in their order: what is trained, and why a method refuses its options; the rest is open."""

    trainings: Mapping[str, TrainOptions]
    refused: Mapping[str, str]


def planned(options: CompareOptions) -> Planned:
    """What is trained, by the name of its row; the target is left open.

    A method that cannot follow the shared ``--steps`` or ``--recipe`` (it is not trained step by step, it has no such
    recipe) does without them, and the log says so.

    Raises:
        InputError: an unknown method, a name that is given twice or is no file name, a setting of a method that is not
            compared, or every method refuses its options.
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
    refused: dict[str, str] = {}
    for name, training in found.items():
        method = method_class(training.method)
        own = (*settings.get(training.method, ()), *training.method_options)
        try:
            found[name] = _accepted(name, method, replace(training, method_options=own), options)
        except InputError as error:
            refused[name] = str(error)
    if len(refused) == len(found):
        name, text = next(iter(refused.items()))
        raise InputError(text if name == found[name].method else f"{name}: {text}")
    return Planned(found, refused)


def _accepted(name: str, method: type[Detector], training: TrainOptions, options: CompareOptions) -> TrainOptions:
    """The options, less those shared ones that the method cannot follow.

    Raises:
        InputError: it refuses them all the same.
    """
    said = {key for variant in options.variants if variant.name == name for key, _ in variant.changes}
    shared = [key for key in ("steps", "recipe") if key not in said]
    refusal = InputError("")
    for count in range(len(shared) + 1):
        for left_out in combinations(shared, count):
            tried = replace(training, **{key: getattr(_DEFAULTS, key) for key in left_out})
            try:
                method.plan(tried)
            except InputError as error:
                refusal = error
                continue
            different = [f"--{key}" for key in left_out if getattr(training, key) != getattr(tried, key)]
            if different:
                _log.info("%s: cannot follow %s; it does without", name, " and ".join(different))
            return tried
    raise refusal


def _variants(options: CompareOptions) -> Iterator[Variant]:
    named = options.methods or (() if options.variants or options.ablation else tuple(METHODS))
    yield from (Variant(name, (("method", name),)) for name in named)
    yield from options.variants
    if options.ablation:
        yield from ablation(options.recipe)


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
