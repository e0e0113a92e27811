"""A pickle reader that builds tensors, containers and inert records, and runs nothing.

A released checkpoint is a whole pickled module of a package that is not installed. Every class of
that package, and of torch's, becomes a :class:`Record`: a bag that keeps the state it is given.
Names outside the allow-list end the reading, before anything of that name is looked up; what stands
for the few functions that ordinary checkpoints need is in ``stand_ins``.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
from typing import Any

import torch
from torch import Tensor

from quantpipe.detector.released.archive import Archive
from quantpipe.detector.released.stand_ins import (
    Ordered,
    Record,
    StandIns,
    is_numpy_class,
    refusal,
)
from quantpipe.errors import ArtifactError

# Classes of these packages become records; nothing of the packages is imported.
_INERT = ("yolov6", "torch.nn", "torch.optim", "pytorch_quantization", "argparse")
_CONTAINERS = {
    ("collections", "OrderedDict"): Ordered,
    ("builtins", "set"): set,
    ("builtins", "dict"): dict,
    ("builtins", "list"): list,
    ("torch", "Size"): tuple,
}
# Protocol 2, which torch writes, has Python 2's names.
_OLD_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _STORAGES.values()}
_MAX_DIMENSIONS = 8
_FAULTS = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


def read_objects(archive: Archive) -> Any:
    """Returns what an archive holds: containers, numbers, text, tensors and records.

    Raises:
        ArtifactError: The pickle is damaged or names anything outside the allow-list; one line
            that says which. Nothing of it has run.
    """
    content = archive.pickle()
    reader = _Reader(content, archive)
    try:
        _require_small_memo(content)
        return reader.load()
    except ArtifactError as error:
        error.path = archive.path
        raise
    except _FAULTS as error:
        text = " ".join(str(error).split())[:80]
        raise ArtifactError(
            f"its pickle is damaged ({type(error).__name__}: {text})", path=archive.path
        ) from error


def _require_small_memo(content: bytes) -> None:
    """Refuses memo numbers beyond the pickle's length: they would only claim memory."""
    for opcode, argument, _ in pickletools.genops(content):
        puts = opcode.name in ("PUT", "BINPUT", "LONG_BINPUT")
        if puts and isinstance(argument, int) and argument > len(content):
            raise ValueError(f"memo number {argument}")


class _Reader(pickle.Unpickler):
    """Resolves names by table only; functions it hands out are bound methods of its own."""

    def __init__(self, content: bytes, archive: Archive):
        super().__init__(io.BytesIO(content), encoding="utf-8")
        self._archive = archive
        self._storages: dict[str, Tensor] = {}
        self._records: dict[str, type[Record]] = {}
        self._functions = {
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): self._parameter,
            ("copyreg", "_reconstructor"): self._reconstructed,
            **StandIns().table(),
        }

    def find_class(self, module: str, name: str) -> Any:
        """Returns what stands for a name, never the thing of that name."""
        module = _OLD_NAMES.get(module, module)
        found = self._functions.get((module, name)) or _CONTAINERS.get((module, name))
        if found is not None:
            return found
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        origin = f"{module}.{name}"
        if is_numpy_class(module, name) or any(
            module == package or module.startswith(f"{package}.") for package in _INERT
        ):
            return self._records.setdefault(origin, type("Record", (Record,), {"origin": origin}))
        raise refusal(f"names '{origin[:80]}', which no checkpoint of a detector needs")

    def persistent_load(self, pid: Any) -> Any:
        """Returns the storage that a tensor refers to, flat."""
        kind, dtype, key, _device, size = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise ValueError("unknown persistent object")
        if key not in self._storages:
            content = self._archive.storage(key)
            if len(content) != _natural(size) * dtype.itemsize:
                raise ValueError(f"storage '{key}' has {len(content)} bytes")
            empty = torch.empty(0, dtype=dtype)
            self._storages[key] = (
                torch.frombuffer(bytearray(content), dtype=dtype) if content else empty
            )
        storage = self._storages[key]
        if storage.dtype != dtype:
            raise ValueError(f"storage '{key}' is of two types")
        return storage

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_rest: Any) -> Tensor:
        """A tensor in its storage; every element must lie inside it."""
        if not isinstance(storage, Tensor):
            raise TypeError("a tensor without storage")
        shape, steps = [_natural(n) for n in size], [_natural(n) for n in stride]
        if len(shape) != len(steps) or len(shape) > _MAX_DIMENSIONS:
            raise ValueError(f"shape {shape[:_MAX_DIMENSIONS]}")
        last = sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
        empty = 0 in shape
        if not empty and max(_natural(offset) + last + 1, math.prod(shape)) > len(storage):
            raise ValueError(f"shape {shape} reaches past its storage")
        if empty:
            return storage.new_empty(shape)
        return storage.as_strided(shape, steps, offset).clone()

    def _parameter(self, data: Any, *_rest: Any) -> Any:
        return data

    def _reconstructed(self, cls: Any, *_rest: Any) -> Record:
        if not (isinstance(cls, type) and issubclass(cls, Record)):
            raise TypeError("an object without a class")
        return cls()


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0 or value >= 1 << 48:
        raise ValueError(f"{str(value)[:40]} is no size")
    return value
