"""Configs from and to plain values, every value checked against its field."""

import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal, Union

from jaxft.config.sections import with_sections
from jaxft.core.errors import UserError, did_you_mean


def to_dict(value: Any) -> Any:
    """Returns a config as nested dicts and lists, ready for JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_dict(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_dict(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars
        return value.tolist()
    if isinstance(value, list | tuple | range):
        return [to_dict(item) for item in value]
    return value


def non_default(value: Any, default: Any = None) -> dict[str, Any]:
    """Returns the fields of a config that differ from their defaults, as nested dicts."""
    default = type(value)() if default is None else default
    differing = {}
    for field in dataclasses.fields(value):
        field_value, field_default = getattr(value, field.name), getattr(default, field.name)
        if field_value == field_default:
            continue
        if dataclasses.is_dataclass(field_value):
            differing[field.name] = non_default(field_value, field_default)
        else:
            differing[field.name] = to_dict(field_value)
    return differing


def from_dict(kind: type, fields: Mapping[str, Any], where: str = "", base: Any = None) -> Any:
    """Returns the dataclass `kind` built from nested dicts; every value is checked against its field.

    Args:
      kind: a section of the config, a `Trial` or a `Study`.
      fields: values by name. A name may be dotted: {'optimizer.momentum': 0.5} is {'optimizer': {'momentum': 0.5}}.
      where: dotted name of the section, for messages.
      base: what has the values of fields that the dicts leave out; if None, the defaults.

    Raises:
      UserError: a field is unknown, or its value is not allowed; or fields contradict each other (`kind.check`).
    """
    kind = with_sections(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}
    hints = _hints(kind)
    given, order = expanded(fields), list(known)
    values: dict[str, Any] = {}
    # In the order of the fields: a study's plug-ins are loaded before the sections that they add to.
    for name, value in sorted(given.items(), key=lambda item: order.index(item[0]) if item[0] in known else -1):
        dotted = f"{where}.{name}" if where else name
        if name not in known:
            raise _unknown(name, dotted, kind, where)
        metadata, default_value = (
            known[name].metadata,
            getattr(base, name) if base is not None else _default(known[name]),
        )
        if metadata.get("parse") is not None:
            values[name] = metadata["parse"](value)
        elif metadata.get("registry") is not None:
            values[name] = _names(value, known[name], dotted)
        else:
            values[name] = _checked(value, hints[name], dotted, metadata.get("limits", {}), default_value)
    config = kind(**values) if base is None else dataclasses.replace(base, **values)
    if hasattr(config, "check"):
        config.check(where)
    return config


def _names(value: Any, field: dataclasses.Field[Any], where: str) -> Any:
    """Returns `value` if it names an entry of the field's registry, or is the default; a list if the default is one."""
    registry, default = field.metadata["registry"], field.default
    if isinstance(default, tuple):
        given, defaults, kind = value, default, "a list of "
    else:
        given, defaults, kind = [value], (default,), ""
    if isinstance(given, list | tuple) and all(isinstance(n, str) and (n in defaults or n in registry) for n in given):
        return tuple(given) if kind else value
    names = [*(n for n in defaults if n not in registry), *registry]
    unknown = next((n for n in given if n not in names), "") if isinstance(given, list | tuple) else given
    raise UserError(
        f"config field {where!r} is {value!r}; allowed: {kind}{' or '.join(map(repr, names)) or 'nothing yet'}"
        f"{did_you_mean(str(unknown), names)}."
    )


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def expanded(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `fields` with dotted names as nested dicts."""
    nested: dict[str, Any] = {}
    for name, value in fields.items():
        if "." in name:
            set_at(nested, name, value)
        elif isinstance(value, Mapping) and isinstance(nested.get(name), dict):
            nested[name] = nested[name] | value
        else:
            nested[name] = dict(value) if isinstance(value, Mapping) else value
    return nested


def with_fields(config: Any, fields: Mapping[str, Any]) -> Any:
    """Returns `config` with some fields changed, named by dotted names; every value is checked."""
    return from_dict(type(config), fields, base=config)


def _unknown(name: str, dotted: str, kind: type, where: str) -> UserError:
    """Returns the error for a field that `kind` does not have; it suggests the nearest one, in its sections too."""
    known = [field.name for field in dataclasses.fields(kind)]
    guess = did_you_mean(name, known)
    if not guess:
        of_sections: dict[str, str] = {}
        for leaf, _, _ in fields_of(kind(), where):
            of_sections.setdefault(leaf.rpartition(".")[2], leaf)
        near = get_close_matches(name, of_sections, n=1)
        guess = f" (did you mean {of_sections[near[0]]!r}?)" if near else ""
    section = repr(where) if where else "the config"
    return UserError(f"unknown config field {dotted!r}{guess}; {section} has {', '.join(known)}.")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def get_at(config: Any, dotted: str) -> Any:
    """Returns the value of a dotted field, such as `training.optimizer.learning_rate`; None below a field that is "
    "None."""
    for name in dotted.split("."):
        config = getattr(config, name, None)
    return config


def fields_of(config: Any, where: str = "") -> Iterable[tuple[str, Any, dataclasses.Field[Any]]]:
    """Yields every field of a config, nested ones by their dotted names: (name, value, field)."""
    for field in dataclasses.fields(config):
        name = f"{where}.{field.name}" if where else field.name
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, name)
        else:
            yield name, value, field


def _checked(value: Any, hint: Any, where: str, limits: Mapping[str, float], default_value: Any) -> Any:
    """Returns `value` as the type that the field declares, or raises an error that says what is allowed."""
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        if isinstance(value, Mapping):
            return from_dict(hint, value, where, default_value)  # type: ignore[arg-type]
        raise UserError(f"config field {where!r} is {value!r}, but holds fields of its own.")
    options = _options(hint)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
            return _checked(value, option, where, limits, default_value)
        if option is str and int in options and isinstance(value, numbers.Real):
            continue  # a number that is no right one is no name
        try:
            return _as_option(value, option, limits)
        except (TypeError, ValueError):
            continue
    raise UserError(f"config field {where!r} is {value!r}; {_allowed(hint, limits, value)}.")


def _options(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _as_option(value: Any, option: Any, limits: Mapping[str, float]) -> Any:
    origin = typing.get_origin(option)
    if option is type(None):
        if value is None:
            return None
    elif origin is Literal:
        if isinstance(value, str) and value in typing.get_args(option):
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple):
            inner = typing.get_args(option)
            if inner[-1] is Ellipsis:
                return tuple(_first_option(item, inner[0], limits) for item in value)
            if len(inner) == len(value):
                return tuple(_first_option(item, kind, limits) for item, kind in zip(value, inner))
    elif option is bool or option is str:
        if isinstance(value, option):
            return value
        if option is str and isinstance(value, numbers.Real) and not isinstance(value, bool):
            return str(value)  # an override such as --config.title=2024
    elif option in (int, float) and isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = option(value) if math.isfinite(value) else math.nan
        if number == value and math.isfinite(number) and _within(number, limits):
            return number
    raise TypeError


def _first_option(value: Any, hint: Any, limits: Mapping[str, float]) -> Any:
    for option in _options(hint):
        try:
            return _as_option(value, option, limits)
        except (TypeError, ValueError):
            continue
    raise TypeError


def _within(number: float, limits: Mapping[str, float]) -> bool:
    return (
        number >= limits.get("at_least", -math.inf)
        and number > limits.get("above", -math.inf)
        and number <= limits.get("at_most", math.inf)
        and number < limits.get("below", math.inf)
    )


def _allowed(hint: Any, limits: Mapping[str, float], value: Any) -> str:
    words: list[str] = []
    choices: list[str] = []
    numeric = " and ".join(f"{name.replace('_', ' ')} {limit:.10g}" for name, limit in limits.items())
    for option in _options(hint):
        if option is type(None):
            words.append("none")
        elif typing.get_origin(option) is Literal:
            choices += typing.get_args(option)
            words += [repr(choice) for choice in typing.get_args(option)]
        elif typing.get_origin(option) is tuple:
            words.append("a list of " + _inside(typing.get_args(option)))
        elif option in (int, float):
            words.append({int: "a whole number", float: "a number"}[option] + (f" {numeric}" if numeric else ""))
        else:
            words.append({bool: "True or False", str: "a text"}.get(option, "a group of fields"))
    guess = did_you_mean(value, choices) if isinstance(value, str) else ""
    return f"allowed: {' or '.join(words)}{guess}"


def _inside(inner: tuple[Any, ...]) -> str:
    if typing.get_origin(inner[0]) is tuple:
        choices = typing.get_args(typing.get_args(inner[0])[1])
        return "pairs (pattern, multiplier or 'frozen')" if choices else "pairs (pattern, number)"
    return {str: "texts", int: "whole numbers", float: "numbers"}.get(inner[0], "values")


def set_at(fields: dict[str, Any], dotted: str, value: Any) -> None:
    """Sets a dotted field in nested dicts, which are made where they are missing."""
    *parents, last = dotted.split(".")
    for parent in parents:
        if fields.get(parent) is None:
            fields[parent] = {}
        elif isinstance(fields[parent], Mapping):
            fields[parent] = dict(fields[parent])
        fields = fields[parent]
        if not isinstance(fields, dict):
            raise UserError(f"unknown config field {dotted!r}: {parent!r} has no fields of its own.")
    if isinstance(value, Mapping) and isinstance(fields.get(last), dict):
        value = fields[last] | dict(value)
    fields[last] = value
