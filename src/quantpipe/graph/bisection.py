"""Where two computations of one graph diverge: the search, and the graph up to an operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import onnx
import onnx.utils


def first_diverged(
    producers: Mapping[str, frozenset[str]], diverged: Callable[[str], bool]
) -> str | None:
    """Returns an operation whose result diverges while the results it is computed from do not.

    What diverged once is taken to stay diverged downstream, so that a bisection over an operation's
    ancestors takes few looks; that no producer of the one found diverged is looked at for certain.

    Args:
        producers: For each operation, in execution order, those whose results it reads.
        diverged: Whether the two results of an operation differ; dear, so asked once for each.

    Returns:
        None where no operation diverges whose result no other reads.
    """
    diverged = cache(diverged)
    read = frozenset().union(*producers.values())
    start = next((name for name in producers if name not in read and diverged(name)), None)
    while start is not None:
        found = _bisected(_ancestors(start, producers), diverged)
        start = next((name for name in sorted(producers[found]) if diverged(name)), None)
        if start is None:
            return found
    return None


def _bisected(names: list[str], diverged: Callable[[str], bool]) -> str:
    """The first that diverged, of names whose last is."""
    low, high = 0, len(names) - 1
    while low < high:
        middle = (low + high) // 2
        if diverged(names[middle]):
            high = middle
        else:
            low = middle + 1
    return names[low]


def _ancestors(name: str, producers: Mapping[str, frozenset[str]]) -> list[str]:
    """Everything that ``name`` is computed from, and itself, in execution order."""
    found, waiting = {name}, [name]
    while waiting:
        new = producers[waiting.pop()] - found
        found |= new
        waiting += new
    return [candidate for candidate in producers if candidate in found]


def graph_until(model: onnx.ModelProto, node_name: str) -> onnx.ModelProto:
    """Returns the part of a model that computes the first output of a node, its only output.

    Whatever a library fuses upstream of the node it can fuse here too.

    Args:
        model: With one input.
        node_name: Of a node in it.
    """
    shaped = onnx.shape_inference.infer_shapes(model)
    (output,) = (node.output[0] for node in shaped.graph.node if node.name == node_name)
    extractor = onnx.utils.Extractor(shaped)
    return extractor.extract_model([shaped.graph.input[0].name], [output])
