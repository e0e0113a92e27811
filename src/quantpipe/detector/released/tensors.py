"""From a released checkpoint to the tensors of its network, and the classes of its modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from quantpipe.detector.released.archive import Archive, is_archive
from quantpipe.detector.released.stand_ins import Record
from quantpipe.detector.released.unpickler import read_objects
from quantpipe.errors import ArtifactError

T = TypeVar("T")

_MAX_DEPTH = 32
_MAX_MODULES = 20_000
# Where a network is looked for, best first.
_PLACES = ("ema", "model", "state_dict")
# Levels that a wrapper for several devices or a training library puts around a network.
_WRAPPERS = ("module.", "model.")
# A quantizer of pytorch-quantization stands in a level of such a name.
_QUANTIZERS = ("_quantizer", "_quant")


@dataclass(frozen=True, kw_only=True)
class ReleasedNetwork:
    """What a checkpoint holds of its network.

    Attributes:
        tensors: Parameters and buffers by name, in their order; floating ones in float32.
        classes: Of its modules by their path, as ``package.module.Class``; empty where the file
            holds tensors only.
    """

    tensors: dict[str, Tensor]
    classes: dict[str, str]


def read_network(path: Path) -> ReleasedNetwork:
    """Reads the network of a released checkpoint: its ``ema``, else its ``model``.

    The tensors alone are read too, as ``state_dict`` or as the whole file. A level that a wrapper
    puts around all names (``module.``) is taken off.

    Raises:
        ArtifactError: The file is damaged, hostile, or holds no network; one line.
    """
    if not is_archive(path):
        raise ArtifactError(
            "is no checkpoint that is known here",
            path=path,
            hint="give ours (.safetensors), or a released .pt that torch.save (1.6 or newer) wrote",
        )
    with Archive(path) as archive:
        found = read_objects(archive)
    tensors, classes = _network(found, path)
    if not tensors:
        raise ArtifactError(
            "holds no model",
            path=path,
            hint="expected a network or its tensors as 'ema', 'model' or 'state_dict', found "
            + _described(found),
        )
    return ReleasedNetwork(
        tensors={n: t.float() if t.is_floating_point() else t for n, t in tensors.items()},
        classes=classes,
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors alone of :func:`read_network`."""
    return read_network(path).tensors


def split_quantizers(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the tensors of a network, and those of the quantizers in it."""
    network: dict[str, Tensor] = {}
    quantizers: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        inside = any(level.endswith(_QUANTIZERS) for level in name.split("."))
        (quantizers if inside else network)[name] = tensor
    return network, quantizers


def _network(found: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The first of what may be a network that has tensors: they, and the classes of its modules."""
    for value in _candidates(found):
        tensors, classes = _walked(value, path) if isinstance(value, Record) else (_flat(value), {})
        if tensors:
            wrapper = _wrapper(tensors)
            return _without(wrapper, tensors), _without(wrapper, classes)
    return {}, {}


def _candidates(found: Any) -> list[Any]:
    inside = [found.get(key) for key in _PLACES] if isinstance(found, Mapping) else []
    return [*inside, found]


def _walked(root: Record, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors: dict[str, Tensor] = {}
    classes: dict[str, str] = {}
    for prefix, record in _modules(root, ""):
        classes[prefix.removesuffix(".")] = record.origin
        if prefix.count(".") > _MAX_DEPTH or len(classes) > _MAX_MODULES:
            raise ArtifactError("its modules contain each other, or are too many", path=path)
        for kind in ("_parameters", "_buffers"):
            own = _items(record, kind)
            tensors.update({f"{prefix}{n}": t for n, t in own if isinstance(t, Tensor)})
    return tensors, classes


def _modules(record: Record, prefix: str) -> Iterator[tuple[str, Record]]:
    """Yields a module and those below by the prefix of their names, in their order."""
    yield prefix, record
    for name, value in _items(record, "_modules"):
        if isinstance(value, Record):
            yield from _modules(value, f"{prefix}{name}.")


def _items(record: Record, kind: str) -> list[tuple[str, Any]]:
    return [(str(name), value) for name, value in _pairs(record.state.get(kind))]


def _flat(values: Any) -> dict[str, Tensor]:
    """The mapping itself if it is a state dict, else nothing."""
    if not isinstance(values, Mapping):
        return {}
    whole = all(isinstance(k, str) and isinstance(v, Tensor) for k, v in values.items())
    return dict(values) if whole else {}


def _wrapper(tensors: Mapping[str, Tensor]) -> str:
    """The level that all names begin with, where it is a wrapper's."""
    return next((w for w in _WRAPPERS if all(name.startswith(w) for name in tensors)), "")


def _without(wrapper: str, named: Mapping[str, T]) -> dict[str, T]:
    """What is inside a wrapper, without its level."""
    return {n.removeprefix(wrapper): value for n, value in named.items() if n.startswith(wrapper)}


def _described(found: Any) -> str:
    """What a file holds in place of a network."""
    if not isinstance(found, Mapping):
        return "none of them"
    for key in _PLACES:
        other = [k for k, v in _pairs(found.get(key)) if not isinstance(v, Tensor)]
        if other:
            return f"'{key}', in which '{str(other[0])[:40]}' is no tensor"
    return ", ".join(f"'{str(key)[:40]}'" for key in list(found)[:5]) or "nothing"


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    return list(value.items()) if isinstance(value, Mapping) else []
