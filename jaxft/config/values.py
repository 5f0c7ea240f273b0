"""Conversion between configs and nested dicts of plain values. Every value is checked against its field."""

import dataclasses
import functools
import math
import numbers
import os
import struct
import types
import typing
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal, Union

from jaxft.config.sections import with_sections
from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.text import cut_off, shown, some_of

MOST_FIELDS = 12  # field names that an error lists
MOST_ITEMS = 1_000_000  # of a list
MAX_INTEGER = 10**15  # sizes in bytes are the largest
MAX_FLOAT = 3.4028234663852886e38  # of float32, as programs use it
MOST_PATH_BYTES = 255  # of a name in a path, as on Linux and macOS
MOST_CHARACTERS = 10_000  # of a string
MOST_NAME_CHARACTERS = 60  # of an unknown field in an error


def to_dict(value: Any) -> Any:
    """Returns a config as nested dicts and lists that JSON can store.

    Raises:
      UserError: a range has more than `MOST_ITEMS` items.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_dict(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_dict(item) for key, item in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        return value.tolist()
    if isinstance(value, range) and value[MOST_ITEMS:]:
        raise UserError(f"the config contains {shown(value)}; a list has at most {MOST_ITEMS:,} items.")
    if isinstance(value, list | tuple | range):
        return [to_dict(item) for item in value]
    return value


def non_default(value: Any, default: Any = None) -> dict[str, Any]:
    """Returns the fields of `value` that differ from `default`, as nested dicts.

    If `default` is None, returns the fields that differ from the defaults of the class.
    """
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
    """Returns an instance of the dataclass `kind` with the values of nested dicts. Every value is checked.

    Args:
      kind: the class of a section, `Trial` or `Study`.
      fields: values by name. A name may be dotted: {'optimizer.momentum': 0.5} is {'optimizer': {'momentum': 0.5}}.
      where: dotted name of the section, for messages.
      base: an instance with the values of all fields that are not in `fields`; if None, these fields have their
        defaults.

    Raises:
      UserError: a field is unknown, a value is not allowed, or fields contradict each other (`kind.check`).
    """
    kind = with_sections(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}
    hints = _hints(kind)
    order = list(known)
    values: dict[str, Any] = {}
    # The order of the fields: `plugins` is first, so plug-ins are loaded before the sections that they extend.
    for name, value in sorted(
        expanded(fields).items(), key=lambda item: order.index(item[0]) if item[0] in known else -1
    ):
        dotted = f"{where}.{name}" if where else name
        if name not in known:
            raise _unknown(name, dotted, kind, where)
        metadata = known[name].metadata
        default_value = _default(known[name]) if base is None else getattr(base, name)
        if metadata.get("parse") is not None:
            values[name] = metadata["parse"](value)
        elif metadata.get("registry") is not None:
            values[name] = _names(value, known[name], dotted)
        else:
            values[name] = _checked(value, hints[name], dotted, metadata.get("limits", {}), default_value)
        if metadata.get("is_path"):
            values[name] = _without_home(values[name], dotted)
    config = kind(**values) if base is None else dataclasses.replace(base, **values)
    if hasattr(config, "check"):
        config.check(where)
    return config


def _names(value: Any, field: dataclasses.Field[Any], where: str) -> Any:
    """Returns `value` if it is the default or names an entry of the field's registry; otherwise raises a `UserError`.

    If the default is a tuple, `value` is a list of names and is returned as a tuple.
    """
    registry, default = field.metadata["registry"], field.default
    if isinstance(default, tuple):
        chosen, defaults, kind = value, default, "a list of "
    else:
        chosen, defaults, kind = [value], (default,), ""
    if isinstance(chosen, list | tuple) and all(
        isinstance(n, str) and (n in defaults or n in registry) for n in chosen
    ):
        return tuple(chosen) if kind else value
    names = [*(n for n in defaults if n not in registry), *registry]
    unknown = next((n for n in chosen if n not in names), "") if isinstance(chosen, list | tuple) else chosen
    allowed = kind + " or ".join(map(repr, names)) if names else f"nothing, because no {registry.kind} is registered"
    guess = did_you_mean(unknown, names) if isinstance(unknown, str) else ""
    raise UserError(f"config field {where!r} is {shown(value)}; allowed: {allowed}{guess}.")


def _without_home(value: Any, where: str) -> Any:
    """Returns a path, or a tuple of paths, with the home folder in place of a leading `~`; None stays None."""
    if isinstance(value, tuple):
        return tuple(_without_home(path, where) for path in value)
    if value is not None and max(map(len, value.encode().split(b"/"))) > MOST_PATH_BYTES:
        raise UserError(
            f"config field {where!r} is {shown(value)}; a name in a path has at most {MOST_PATH_BYTES} bytes."
        )
    return value if value is None else os.path.expanduser(value)  # noqa: PTH111  `Path` turns 'tfds:a//b' into 'tfds:a/b'


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def expanded(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `fields` with dotted names expanded to nested dicts."""
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
    """Returns `config` with new values of the fields in `fields`, by dotted name. Every value is checked.

    Raises:
      UserError: as in `from_dict`.
    """
    return from_dict(type(config), fields, base=config)


def _unknown(name: str, dotted: str, kind: type, where: str) -> UserError:
    """Returns the error for an unknown field of `kind`, which suggests a similar name, also from subsections."""
    known = [field.name for field in dataclasses.fields(kind)]
    name, dotted = cut_off(name, MOST_NAME_CHARACTERS), cut_off(dotted, MOST_NAME_CHARACTERS)
    guess = did_you_mean(name, known)
    if not guess:
        of_sections: dict[str, str] = {}
        for leaf, _, _ in fields_of(kind(), where):
            of_sections.setdefault(leaf.rpartition(".")[2], leaf)
        near = get_close_matches(name, of_sections, n=1)
        guess = f" (did you mean {of_sections[near[0]]!r}?)" if near else ""
    section = repr(where) if where else "the config"
    return UserError(f"unknown config field {dotted!r}{guess}; {section} has {some_of(known, MOST_FIELDS)}.")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def get_at(config: Any, dotted: str) -> Any:
    """Returns the value of a dotted field, such as `training.optimizer.learning_rate`.

    Returns None if a section on the way is None.
    """
    for name in dotted.split("."):
        config = getattr(config, name, None)
    return config


def fields_of(config: Any, where: str = "") -> Iterable[tuple[str, Any, dataclasses.Field[Any]]]:
    """Yields each field that is not a section as (dotted name, value, dataclass field), also from subsections."""
    for field in dataclasses.fields(config):
        name = f"{where}.{field.name}" if where else field.name
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, name)
        else:
            yield name, value, field


def _checked(value: Any, hint: Any, where: str, limits: Mapping[str, float], default_value: Any) -> Any:
    """Returns `value` converted to the declared type of the field; raises a `UserError` if it is not allowed."""
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        if isinstance(value, Mapping):
            return from_dict(hint, value, where, default_value)  # type: ignore[arg-type]
        raise UserError(
            f"config field {where!r} is {shown(value)}, but it is a section; allowed: a dict of its fields."
        )
    options = _options(hint)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
            return _checked(value, option, where, limits, default_value)
        if option is str and int in options and isinstance(value, numbers.Real):
            continue  # do not accept an out-of-bounds number as a string
        try:
            return _as_option(value, option, limits)
        except (TypeError, ValueError, OverflowError):
            continue
    raise UserError(f"config field {where!r} is {shown(value)}; {_allowed(hint, limits, value)}.")


def _options(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _as_option(value: Any, option: Any, limits: Mapping[str, float]) -> Any:
    """Returns `value` converted to the type `option`.

    Raises:
      TypeError, ValueError, OverflowError: the value does not fit.
    """
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
    elif option is str and isinstance(value, os.PathLike):
        return _as_text(os.fspath(value))
    elif option is bool and isinstance(value, bool):
        return value
    elif option is str:
        if isinstance(value, str):
            return _as_text(value)
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            return str(value)  # an override such as --config.title=2024
    elif option in (int, float) and isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = option(value) if math.isfinite(value) else math.nan
        if number == value and math.isfinite(number) and _within(number, limits):
            return number
    raise TypeError


def _first_option(value: Any, hint: Any, limits: Mapping[str, float]) -> Any:
    """Returns `value` converted to the first type of the union `hint` that it fits."""
    for option in _options(hint):
        try:
            return _as_option(value, option, limits)
        except (TypeError, ValueError, OverflowError):
            continue
    raise TypeError


def _as_text(value: str) -> str:
    """Returns `value`; raises a `ValueError` if no file and no page can contain it."""
    value.encode()  # half of a surrogate pair
    if "\0" in value or len(value) > MOST_CHARACTERS:
        raise ValueError
    return value


def _within(number: float, limits: Mapping[str, float]) -> bool:
    """Returns whether a number is within its limits and not too large. A float must also fit in float32."""
    if isinstance(number, float):
        as_float32 = struct.unpack("f", struct.pack("f", number))[0]  # OverflowError above MAX_FLOAT
        return _is_in(number, limits) and _is_in(as_float32, limits)
    return _is_in(number, limits) and abs(number) <= MAX_INTEGER


def _is_in(number: float, limits: Mapping[str, float]) -> bool:
    return (
        number >= limits.get("at_least", -math.inf)
        and number > limits.get("above", -math.inf)
        and number <= limits.get("at_most", math.inf)
        and number < limits.get("below", math.inf)
    )


def _allowed(hint: Any, limits: Mapping[str, float], value: Any) -> str:
    """Returns the end of an error message: the allowed values of a field, and a suggestion if `value` is similar."""
    words: list[str] = []
    choices: list[str] = []
    options = _options(hint)
    largest = MAX_FLOAT if float in options else MAX_INTEGER
    if isinstance(value, int | float) and value > largest and not {"at_most", "below"} & {*limits}:
        limits = {**limits, "at_most": largest}
    numeric = " and ".join(f"{name.replace('_', ' ')} {limit:.10g}" for name, limit in limits.items())
    if isinstance(value, float) and float in options and _is_in(value, limits):
        numeric += " in float32 precision"
    for option in options:
        if option is type(None):
            words.append("None")
        elif typing.get_origin(option) is Literal:
            choices += typing.get_args(option)
            words += [repr(choice) for choice in typing.get_args(option)]
        elif typing.get_origin(option) is tuple:
            words.append("a list of " + _inside(typing.get_args(option)))
        elif option in (int, float):
            words.append({int: "an integer", float: "a number"}[option] + (f" {numeric}" if numeric else ""))
        else:
            text = f"a string of up to {MOST_CHARACTERS:,} Unicode characters, none null"
            text = text if isinstance(value, str) else "a string"
            words.append({bool: "True or False", str: text}.get(option, "a dict of fields"))
    guess = did_you_mean(value, choices) if isinstance(value, str) else ""
    return f"allowed: {' or '.join(words)}{guess}"


def _inside(inner: tuple[Any, ...]) -> str:
    if typing.get_origin(inner[0]) is tuple:
        choices = typing.get_args(typing.get_args(inner[0])[1])
        return "pairs (pattern, multiplier or 'frozen')" if choices else "pairs (pattern, number)"
    return {str: "strings", int: "integers", float: "numbers"}.get(inner[0], "values")


def set_at(fields: dict[str, Any], dotted: str, value: Any) -> None:
    """Sets a dotted field in nested dicts, and creates missing dicts.

    If the old and the new value are dicts, the new entries are added to the old ones.

    Raises:
      UserError: a section on the way has a value that is not a dict.
    """
    *parents, last = dotted.split(".")
    for parent in parents:
        if fields.get(parent) is None:
            fields[parent] = {}
        elif isinstance(fields[parent], Mapping):
            fields[parent] = dict(fields[parent])
        fields = fields[parent]
        if not isinstance(fields, dict):
            raise UserError(f"unknown config field {dotted!r}: {parent!r} is a field, not a section.")
    if isinstance(value, Mapping) and isinstance(fields.get(last), dict):
        value = fields[last] | dict(value)
    fields[last] = value
