"""From a plain mapping to a typed dataclass, with every mistake found and named.

Serves configurations, and JSON documents through :mod:`quantpipe.documents`.

The configuration dataclasses hold no defaults: values live in YAML, types and ranges in the
annotations (``Annotated[float, Between(0, 100)]``). A union of dataclasses is told apart by
its one field of type ``Literal``.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from quantpipe.errors import ConfigurationError, QuantpipeError, nearest

C = TypeVar("C")

# What documents say in other words.
NOT_SET = "is not set"
NO_SUCH_SETTING = "there is no such setting"
NO_GROUP = "is not a group of settings"
_MAX_SHOWN = 60


@dataclass(frozen=True)
class Between:
    """A closed range for a number; ``open_low`` leaves the lower end out. NaN is never inside."""

    low: float
    high: float = math.inf
    open_low: bool = False

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies in the range."""
        above = value > self.low if self.open_low else value >= self.low
        return above and value <= self.high

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'above' if self.open_low else 'at least'} {_number(self.low)}"
        if self.open_low:
            return f"above {_number(self.low)} and at most {_number(self.high)}"
        return f"between {_number(self.low)} and {_number(self.high)}"


def _number(value: float) -> str:
    return f"{value:.12g}"


Fraction = Annotated[float, Between(0, 1)]
Positive = Annotated[float, Between(0, open_low=True)]
NotNegative = Annotated[float, Between(0)]
Count = Annotated[int, Between(0)]


@dataclass(frozen=True)
class NamedIn:
    """Marks a field that stands in a file as the name of a value in a table."""

    table: Mapping[str, Any]


@dataclass(frozen=True)
class ExecutionOnly:
    """Marks a field that changes how a step runs, not what it makes: it is not in the key."""


@dataclass(frozen=True)
class OneOf:
    """Marks a field whose dataclass is chosen by one of its keys from a table."""

    key: str
    table: Callable[[], Mapping[str, type]]


def build(cls: type[C], values: Any, path: str) -> C:
    """Builds the dataclass ``cls`` from a mapping of its fields; those with defaults may lack.

    ``path`` is the key of the mapping, empty for the root.

    Raises:
        ConfigurationError: names the key, the value, and the nearest name that is known.
    """
    converted = convert_given(cls, values, path)
    for name in _required(cls):
        if name not in converted:
            raise ConfigurationError(NOT_SET, path=_below(path, name), hint="give it a value")
    try:
        return cls(**converted)
    except QuantpipeError as error:
        error.path = path if error.path is None else _below(path, str(error.path))
        raise


def convert_given(cls: type[Any], values: Any, path: str) -> dict[str, Any]:
    """Converts the fields of ``cls`` that a mapping holds; others may still be missing.

    Raises:
        ConfigurationError: as :func:`build` does.
    """
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{_shown(values)} {NO_GROUP}", path=path)
    hints = field_types(cls)
    for name in values:
        if name not in hints:
            raise ConfigurationError(
                NO_SUCH_SETTING,
                path=_below(path, str(name)),
                hint=nearest(str(name), hints),
            )
    return {
        name: convert(hint, values[name], _below(path, name))
        for name, hint in hints.items()
        if name in values
    }


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def field_types(cls: Any) -> Mapping[str, Any]:
    """The resolved annotation of each field of a dataclass, ``Annotated`` kept."""
    return _field_types(cls)


@cache
def _field_types(cls: Any) -> Mapping[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}


def _required(cls: Any) -> tuple[str, ...]:
    return tuple(
        field.name
        for field in fields(cls)
        if field.default is MISSING and field.default_factory is MISSING
    )


def convert(hint: Any, value: Any, path: str) -> Any:
    """Converts one value to the annotated type, or raises :class:`ConfigurationError`."""
    origin = get_origin(hint)
    if origin is Annotated:
        base, *marks = get_args(hint)
        for mark in marks:
            if isinstance(mark, OneOf):
                return _convert_tagged(mark.key, mark.table(), value, path)
            if isinstance(mark, NamedIn):
                return mark.table[_convert_choice(tuple(mark.table), value, path)]
        return _in_range(convert(base, value, path), marks, path)
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(hint), value, path)
    if origin is Literal:
        return _convert_choice(get_args(hint), value, path)
    if origin is tuple:
        return _convert_tuple(get_args(hint), value, path)
    if origin is Mapping:
        return _convert_mapping(get_args(hint)[1], value, path)
    if isinstance(hint, type) and is_dataclass(hint):
        return build(hint, value, path)
    return _convert_scalar(hint, value, path)


def _in_range(value: Any, marks: Sequence[Any], path: str) -> Any:
    numbers = value if isinstance(value, tuple) else (value,)
    for mark in marks:
        if isinstance(mark, Between):
            for number in numbers:
                if number is not None and not mark.holds(number):
                    raise ConfigurationError(f"{_number(number)} is not {mark}", path=path)
    return value


def _convert_union(options: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if len(options) == 1:
        return convert(options[0], value, path)
    if all(is_dataclass(option) for option in options):
        tags = {choice: option for option in options for choice in _tag(option)[1]}
        return _convert_tagged(_tag(options[0])[0], tags, value, path)
    if type(value) in options:
        return convert(type(value), value, path)
    for option in options:
        try:
            return convert(option, value, path)
        except ConfigurationError:
            if _only_out_of_range(option, value, path):
                raise
    names = " or ".join(_type_name(option) for option in options)
    raise ConfigurationError(f"{_shown(value)} is not {names}", path=path)


def _only_out_of_range(option: Any, value: Any, path: str) -> bool:
    """Whether a value is of the option's type, so that what is wrong is how much it is."""
    if get_origin(option) is not Annotated:
        return False
    try:
        convert(get_args(option)[0], value, path)
    except ConfigurationError:
        return False
    return True


def _convert_tagged(name: str, tags: Mapping[str, type], value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{_shown(value)} {NO_GROUP}", path=path)
    chosen = value.get(name)
    if not isinstance(chosen, str) or chosen not in tags:
        raise ConfigurationError(
            f"{chosen!r} is unknown", path=f"{path}.{name}", hint=nearest(str(chosen), tags)
        )
    return build(tags[chosen], value, path)


def _tag(option: type) -> tuple[str, tuple[str, ...]]:
    for name, hint in field_types(option).items():
        if get_origin(hint) is Literal:
            return name, get_args(hint)
    raise AssertionError(f"{option.__name__} has no Literal field to be told apart by")


def _convert_choice(choices: tuple[Any, ...], value: Any, path: str) -> Any:
    for choice in choices:
        if value == choice and type(value) is type(choice):
            return choice
    hint = nearest(str(value), [str(choice) for choice in choices])
    listed = ", ".join(map(str, choices))
    raise ConfigurationError(f"{_shown(value)} is not one of {listed}", path=path, hint=hint)


def _convert_tuple(inner: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigurationError(f"{_shown(value)} is not a list", path=path, hint="write [a,b,c]")
    if inner[-1] is not Ellipsis and len(inner) != len(value):
        raise ConfigurationError(f"{list(value)} does not hold {len(inner)} values", path=path)
    item_types = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
    return tuple(
        convert(item_type, item, f"{path}[{index}]")
        for index, (item_type, item) in enumerate(zip(item_types, value, strict=True))
    )


def _convert_mapping(item_type: Any, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{_shown(value)} {NO_GROUP}", path=path)
    return {name: convert(item_type, item, _below(path, str(name))) for name, item in value.items()}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def _convert_scalar(hint: type, value: Any, path: str) -> Any:
    if hint is Path and isinstance(value, str) and value:
        return Path(value).expanduser()
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if hint is int and type(value) is float and value.is_integer():
        return int(value)
    if hint in (int, bool, str) and type(value) is hint:
        return value
    raise ConfigurationError(f"{_shown(value)} is not {_type_name(hint)}", path=path)


def _type_name(hint: Any) -> str:
    names = {float: "a finite number", int: "a whole number", bool: "true or false"}
    names |= {str: "a text", Path: "a path"}
    if get_origin(hint) is Annotated:
        return _type_name(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        return "a list" if inner[-1] is Ellipsis else f"a list of {len(inner)}"
    return names.get(hint) or str(getattr(hint, "__name__", hint))
