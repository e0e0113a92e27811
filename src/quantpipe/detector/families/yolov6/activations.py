"""The activations of a released file, which its tensors do not tell and the classes in it do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from quantpipe.detector.families.yolov6.architecture import Architecture
from quantpipe.detector.families.yolov6.network import uninitialized_detector
from quantpipe.detector.families.yolov6.released_names import canonical
from quantpipe.errors import ArtifactError

_PACKAGE = "torch.nn.modules.activation."
# What blocks call their activation, of whatever class it is.
_LEVELS = ("act", "nonlinearity")


def require_activations(
    classes: Mapping[str, str], shape: Architecture, path: Path
) -> tuple[str, ...]:
    """Compares the activations that a file names with those of the network.

    Args:
        classes: Of the file's modules by their path; empty where it holds tensors only.
        shape: What is made of it.
        path: The file.

    Returns:
        What was taken for granted, a line each.

    Raises:
        ArtifactError: A block of the file has another activation.
    """
    expected = _expected(shape)
    if not classes:
        return (
            "the file names no classes: its activations are taken to be "
            f"{' and '.join(dict.fromkeys(expected.values()))}, as in {shape.name}",
        )
    found = _found(classes)
    others = [block for block, kind in found.items() if expected.get(block, kind) != kind]
    if others:
        counts = Counter(found[block] for block in others)
        shown = ", ".join(f"{kind} in {count} blocks" for kind, count in counts.items())
        first = others[0].removesuffix(".conv")
        raise ArtifactError(
            f"has {shown}, '{first}' first, where {shape.name} has {expected[others[0]]}",
            path=path,
            hint="a network of other activations cannot be expressed yet",
        )
    silent = [block for block in expected if block not in found]
    if not silent:
        return ()
    return (
        f"the file names no activation of {len(silent)} blocks, "
        f"'{silent[0].removesuffix('.conv')}' first: taken to be those of {shape.name}",
    )


def _expected(shape: Architecture) -> dict[str, str]:
    """Names of classes by the convolution in front."""
    modules = uninitialized_detector(shape, "deploy").named_modules()
    kinds = {n: type(m).__name__ for n, m in modules if isinstance(m, nn.ReLU | nn.SiLU)}
    return {_block(name): kind for name, kind in kinds.items()}


def _found(classes: Mapping[str, str]) -> dict[str, str]:
    return {
        _block(name): origin.rpartition(".")[2]
        for name, origin in classes.items()
        if origin.startswith(_PACKAGE) or name.rpartition(".")[2] in _LEVELS
    }


def _block(activation: str) -> str:
    """What the convolution in front of an activation is called, whatever the generation."""
    return canonical(f"{activation.rpartition('.')[0]}.conv")
