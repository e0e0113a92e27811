"""What a YOLO data set says of itself: ``data.yaml``, CVAT's ``obj.data``, lists of class names."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from quantpipe.data.faults import Findings, distinct_names
from quantpipe.data.safe_paths import resolve_inside
from quantpipe.errors import DataError
from quantpipe.given_files import read_text

_DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml")
_DARKNET = "obj.data"
_NAME_LISTS = ("obj.names", "classes.txt")  # of CVAT, of Label Studio
_NOTHING = ("", "~", "null", "Null", "NULL")


class _TextLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Every plain scalar is the text that stands there: ``on``, ``010`` and ``12:30`` are names.

    Without aliases, as forty lines of them can stand for more text than any memory holds.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as the base class names it

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuses an alias."""
        if self.check_event(yaml.AliasEvent):
            raise self._refused("an alias, which is not read", self.peek_event())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuses a key that is there twice."""
        keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise self._refused(f"key {key!r} is there twice", node)
        return super().construct_mapping(node, deep=deep)

    def _refused(self, cause: str, where: Any) -> Exception:
        error: Exception = yaml.composer.ComposerError(None, None, cause, where.start_mark)
        return error


def read_description(root: Path) -> dict[str, Any]:
    """Returns the texts, lists and mappings of ``data.yaml``, or what ``obj.data`` says; may be {}.

    Raises:
        DataError: The file cannot be read, or is no such description.
    """
    for name in _DESCRIPTIONS:
        if (root / name).exists():
            return _from_yaml(resolve_inside(root, name))
    if (root / _DARKNET).exists():
        lines = read_text(resolve_inside(root, _DARKNET), DataError).splitlines()
        pairs = (line.partition("=") for line in lines if "=" in line)
        return {key.strip(): value.strip() for key, _, value in pairs if key.strip() != "names"}
    return {}


def _from_yaml(path: Path) -> dict[str, Any]:
    text = read_text(path, DataError)
    try:
        content = yaml.load(text, _TextLoader)  # noqa: S506 - a safe one
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"not YAML ({error})", path=path) from error
    if not isinstance(content, dict):
        raise DataError("not a data set description: no mapping", path=path)
    return content


def stated(description: dict[str, Any], *keys: str) -> Any:
    """Returns what the first of these keys says, None where none says anything."""
    values = (description[key] for key in keys if key in description)
    return next((value for value in values if value not in _NOTHING), None)


def class_names(
    given: Sequence[str] | None, description: dict[str, Any], root: Path, findings: Findings
) -> tuple[str, ...]:
    """Returns the names by label: as given, as ``data.yaml`` says, or from a list of names.

    Raises:
        DataError: There are none, they do not count from 0, or ``nc`` is another number.
    """
    names: Any = stated(description, "names") if given is None else list(given)
    if names is None:
        names = _listed_names(root)
    elif isinstance(names, str):
        names = _names_in(root, names)
    if isinstance(names, dict):
        names = _in_order(names, root)
    if not isinstance(names, list) or not names:
        hint = "give 'names' in data.yaml, a classes.txt, or class names"
        raise DataError("no class names", path=root, hint=hint)
    for label, name in enumerate(names):
        if not isinstance(name, str) or not name:
            cause = f"data.yaml: the name of class {label} is {str(name)[:60]!r}, no text"
            raise DataError(cause, path=root)
    count = stated(description, "nc")
    if given is None and count is not None and _number(count) != len(names):
        raise DataError(f"data.yaml: nc is {count} but {len(names)} names are given", path=root)
    return distinct_names(names, findings)


def _listed_names(root: Path) -> list[str] | None:
    for name in _NAME_LISTS:
        if (root / name).exists():
            return _lines(resolve_inside(root, name))
    return None


def _names_in(root: Path, name: str) -> list[str]:
    """The names in the file that a description names instead of them."""
    path = resolve_inside(root, name)
    if not path.is_file():
        cause = f"data.yaml: 'names' is {name[:60]!r}, neither a list nor a file of names"
        raise DataError(cause, path=root)
    return _lines(path)


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path, DataError).splitlines() if line.strip()]


def _in_order(names: dict[Any, Any], root: Path) -> list[Any]:
    """The names of a mapping by label, whatever the keys are written like: 0, '0', 00."""
    by_label = {_number(key): name for key, name in names.items()}
    if set(by_label) != set(range(len(names))):
        keys = ", ".join(map(str, list(names)[:10]))
        raise DataError(
            f"data.yaml: 'names' does not count from 0 without gaps, its keys are {keys}", path=root
        )
    return [by_label[label] for label in range(len(names))]


def num_keypoint_values(description: dict[str, Any], root: Path) -> int:
    """Returns how many numbers follow the box in a line of a pose data set; 0 for other sets.

    Raises:
        DataError: ``kpt_shape`` is not [points, 2 or 3].
    """
    shape = stated(description, "kpt_shape")
    if shape is None:
        return 0
    numbers = [_number(value) for value in shape] if isinstance(shape, list) else []
    if len(numbers) != 2 or numbers[0] is None or numbers[0] < 1 or numbers[1] not in (2, 3):
        hint = "write [number of points, 2 or 3]"
        raise DataError(f"data.yaml: 'kpt_shape' is {str(shape)[:60]!r}", path=root, hint=hint)
    return prod(number for number in numbers if number is not None)


def _number(value: Any) -> int | None:
    text = str(value).strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
