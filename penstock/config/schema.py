"""Settings as declared on dataclasses: read them off, check values against them, and say in words what they allow.

A setting is a dataclass field annotated with its type, its bounds (annotated-types) and a sentence (`Doc`). The parser,
its error messages and docs/configuration.md all come from that one declaration. Values come from TOML, whose types are
JSON's (dates aside), so pydantic checks them in strict JSON mode: no text passes for a number, and an array may fill a
tuple.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache, cached_property
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from annotated_doc import Doc
from pydantic import TypeAdapter, ValidationError

from penstock.config.errors import Problem, join_key
from penstock.switch.errors import unknown

REQUIRED = MISSING
_SPOKEN_TYPES = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


@dataclass(frozen=True)
class Setting:
    """One key of the file. `default` is REQUIRED when the key must be given."""

    key: str
    hint: Any
    default: Any
    sentence: str

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.hint)

    @property
    def allowed(self) -> str:
        return describe(self.hint)

    def check(self, path: str, value: Any, problems: list[Problem]) -> Any:
        """The value in the setting's own type; on a bad one, adds to `problems` and returns None."""
        try:
            return self.adapter.validate_json(json.dumps(value, default=str), strict=True)
        except ValidationError as error:
            problems += [self._problem(path, value, detail) for detail in error.errors()]
            return None

    def _problem(self, path: str, value: Any, detail: Mapping[str, Any]) -> Problem:
        # Array positions are part of the key; what else pydantic puts in `loc` names branches of a union.
        allowed = self.allowed
        for step in detail["loc"]:
            if isinstance(step, int) and isinstance(value, list):
                path, value = f"{path}[{step}]", value[step]
                allowed = allowed.partition(", each item ")[2]
        reason = f" ({detail['ctx']['error']})" if detail["type"] == "value_error" else ""
        return Problem(path, f"{shown(value)} is wrong: must be {allowed}{reason}")


@cache
def settings_of(declared: type) -> dict[str, Setting]:
    """The settings that a dataclass declares, by key: its fields that carry a `Doc`."""
    hints = typing.get_type_hints(declared, include_extras=True)
    found = {}
    for item in fields(declared):
        sentences = [mark.documentation for mark in get_args(hints[item.name])[1:] if isinstance(mark, Doc)]
        if sentences:
            default = item.default if item.default_factory is MISSING else item.default_factory()
            found[item.name] = Setting(item.name, hints[item.name], default, sentences[0])
    return found


def check_table(
    table: Mapping[str, Any], settings: Mapping[str, Setting], path: str, problems: list[Problem]
) -> dict[str, Any]:
    """Check every key of a TOML table; returns a value for each setting, defaults filled in.

    A setting whose value is wrong is left out of the result, so that no later check trips over it.
    """
    problems += [Problem(join_key(path, key), unknown("key", key, settings)) for key in table if key not in settings]
    values: dict[str, Any] = {}
    for key, setting in settings.items():
        before = len(problems)
        if key in table:
            value = setting.check(join_key(path, key), table[key], problems)
        elif setting.default is REQUIRED:
            value = None
            problems.append(Problem(join_key(path, key), f"is missing: must be {setting.allowed}"))
        else:
            value = setting.default
        if len(problems) == before:
            values[key] = value
    return values


def shown(value: Any) -> str:
    """A value as the operator wrote it, near enough to find it again."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    return json.dumps(value, default=str, ensure_ascii=False)


def describe(hint: Any) -> str:
    """What a type hint allows, in words: "an integer from 1 to 4094"."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _describe_bounded(arguments[0], arguments[1:])
    if origin is Literal:
        return "one of " + ", ".join(shown(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(part) for part in arguments if part is not types.NoneType)
    if origin in (tuple, list):
        return f"a list, each item {describe(arguments[0])}"
    if hint in _SPOKEN_TYPES:
        return _SPOKEN_TYPES[hint]
    raise TypeError(f"no words for the type {hint!r} of a setting: use bool, int, str, Literal, or a tuple of them")


def _describe_bounded(base: Any, marks: tuple[Any, ...]) -> str:
    words = describe(base)
    low: Any = None
    high: Any = None
    for mark in marks:
        low = getattr(mark, "ge", getattr(mark, "min_length", low))
        high = getattr(mark, "le", getattr(mark, "max_length", high))
        if isinstance(mark, annotated_types.Predicate):
            words += f" that {getattr(mark.func, '__doc__', '')}"
    text = words == _SPOKEN_TYPES[str]
    if text and (low, high) == (1, None):
        return f"{words} that is not empty"
    unit = " characters" if text else " items" if words.startswith("a list") else ""
    if low is not None and high is not None:
        return f"{words} {'of' if unit else 'from'} {low} to {high}{unit}"
    if low is not None:
        return f"{words} of at least {low}{unit}"
    if high is not None:
        return f"{words} of at most {high}{unit}"
    return words
