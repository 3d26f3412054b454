"""The options of an intervention: read from text, checked, and explained.

An option is a field of the intervention's dataclass. Its annotation is its type. The field's metadata says what it means
(`help`), which values it takes (`at_least`, `above`, `at_most`, `below`, `choices`), and what a user may type (`example`, where
the default is none). Everything that reads, checks or explains an option reads it from there.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from functools import cache
from typing import Any, get_args, get_type_hints

LIMITS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "at_least": ("of at least", operator.ge),
    "above": ("above", operator.gt),
    "at_most": ("of at most", operator.le),
    "below": ("below", operator.lt),
}
WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
LARGEST_WHOLE = 2**63 - 1
TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def read_options(kind: Any, text: str) -> dict[str, Any]:
    """What `option=value,option=value` gives the intervention class `kind`, each value of the option's type where it has one.

    Raises:
        ValueError: there is no such option, one comes twice, or one that is needed is missing.
    """
    known = {option.name: option for option in options_of(kind)}
    given: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        name = name.strip()
        if not equals or name not in known:
            near = get_close_matches(name, known, 1)
            meant = f" Did you mean {near[0]!r}?" if near and name not in known else ""
            raise ValueError(f"{part!r} should be option=value, and {_options(kind)}.{meant}")
        if name in given:
            raise ValueError(f"{name} is given twice; give it once")
        given[name] = _read(value.strip(), _types(kind, name))
    for name, option in known.items():
        if name not in given and _needed(option):
            raise ValueError(f"the option {name} is missing: {explain(kind, option)}. For example: {example(kind)}")
    return given


def check_options(one: Any) -> None:
    """Raise a ValueError that names the first option of an intervention whose value has another type or is out of range."""
    check_values(type(one), {option.name: getattr(one, option.name) for option in options_of(type(one))})


def check_values(kind: Any, values: Mapping[str, Any]) -> None:
    """Raise a ValueError that names the first of these options of the class `kind` with a wrong type or out of range."""
    for option in options_of(kind):
        types = _types(kind, option.name)
        if option.name not in values or not types:  # not given, or of a type that no text can be read as
            continue
        value, choices = values[option.name], option.metadata.get("choices")
        nothing = value is None and type(None) in get_args(_hints(kind)[option.name])
        fits = nothing or any(_is(value, wanted) for wanted in types)
        if fits and isinstance(value, (int, float)):
            limits = ((LIMITS[key][1], option.metadata[key]) for key in LIMITS if key in option.metadata)
            fits = all(holds(value, limit) for holds, limit in limits)
        if not fits or (choices and not nothing and value not in choices):
            raise ValueError(
                f"{option.name}={value!r:.40} must be {_values(option, types)}. {option.name} is: {_help(option)}. "
                f"For example: {example(kind, option.name)}"
            )


def describe(one: Any) -> str:
    """An intervention as text from which an equal one can be made: `name:option=value,...`, without options at their default.

    >>> from hf_radial.interventions import intervention
    >>> describe(intervention("grokfast_ema:lamb=2,alpha=0.9"))
    'grokfast_ema:alpha=0.9'
    """
    changed = [(option.name, getattr(one, option.name)) for option in options_of(type(one))]
    words = [
        f"{name}={str(value).lower() if isinstance(value, bool) else value}"
        for (name, value), option in zip(changed, options_of(type(one)), strict=True)
        if _needed(option) or value != _default(option)
    ]
    return ":".join(filter(None, [one.name, ",".join(words)]))


def options_of(kind: Any) -> list[Field[Any]]:
    """The options of an intervention class; fields that are not given at the start are none."""
    return [option for option in fields(kind) if option.init]


def explain(kind: Any, option: Field[Any]) -> str:
    """What an option means, which values it takes, and its default."""
    default = "" if _needed(option) else f"; {_text(_default(option))} unless given"
    return f"{_help(option)} ({_values(option, _types(kind, option.name))}{default})"


def example(kind: Any, name: str | None = None) -> str:
    """A text that works: with the options that are needed, and with the option `name`."""
    words = []
    for option in options_of(kind):
        if _needed(option) or option.name == name:
            value = option.metadata.get("example", MISSING)
            words.append(f"{option.name}={_text(_default(option) if value is MISSING else value)}")
    return ":".join(filter(None, [kind.name, ",".join(words)]))


def _options(kind: Any) -> str:
    known = options_of(kind)
    if not known:
        return "it has no options"
    return f"its options are {', '.join(option.name for option in known)}: " + "; ".join(
        f"{option.name}, {explain(kind, option)}" for option in known
    )


def _help(option: Field[Any]) -> str:
    return str(option.metadata.get("help", option.name)).rstrip(".")


def _values(option: Field[Any], types: tuple[type, ...]) -> str:
    if choices := option.metadata.get("choices"):
        return f"one of {', '.join(map(str, choices))}"
    limits = [f"{LIMITS[key][0]} {option.metadata[key]}" for key in LIMITS if key in option.metadata]
    words = [" and ".join([f"{WORDS[types[0]]} {limits[0]}", *limits[1:]]) if limits else WORDS[types[0]]]
    return " or ".join([*words, *(WORDS[other] for other in types[1:])])


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) or "empty"


def _needed(option: Field[Any]) -> bool:
    return option.default is MISSING and option.default_factory is MISSING


def _default(option: Field[Any]) -> Any:
    return option.default if option.default_factory is MISSING else option.default_factory()


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _types(kind: Any, name: str) -> tuple[type, ...]:
    """The types that an option may have, those that say more first."""
    hint = _hints(kind)[name]
    types = get_args(hint) or (hint,)
    return tuple(wanted for wanted in (bool, int, float, str) if wanted in types)


def _is(value: Any, wanted: type) -> bool:
    if wanted is float:
        from hf_radial.penalty.functional import is_number  # here, since it imports torch

        return isinstance(value, (int, float)) and is_number(value)
    if wanted is int:
        return type(value) is int and abs(value) <= LARGEST_WHOLE
    return type(value) is wanted


def _read(text: str, types: tuple[type, ...]) -> Any:
    """The value in a text, of the first type that it fits; the text itself where it fits none."""
    for wanted in types:
        if wanted is bool and text.lower() in TRUTHS:
            return TRUTHS[text.lower()]
        try:
            if wanted in (int, float):
                return wanted(text)
        except ValueError:
            continue
    return text
