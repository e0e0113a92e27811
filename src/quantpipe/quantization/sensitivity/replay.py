"""Computing a network from one operation on, with what lies in front of it computed once.

Quantizing another operation changes nothing that ran before it. The outputs of all operations on a
batch are kept; a pass that is to see operation k switched hands out the kept outputs of every call
in front of its first one, and computes from there. What the network does between operations
(activations, concatenations) runs as ever, so nothing needs to be known of its structure; and as
the same numbers go in, the same come out, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, final

from torch import Tensor, nn

from quantpipe.quantization.scale_cache import ScaleCache
from quantpipe.quantization.simulation.network import FakeQuantized, quantize, quantized_operations

T = TypeVar("T")
Run = Callable[[nn.Module], T]


@final
class Replay:
    """A network to run on one batch after another, each time with one operation switched.

    The memory that it holds is that of the outputs of all operations on one batch.

    Args:
        network: A deployed float network in evaluation mode; it stays as it is.
        scales: Its ranges.
        quantized: Whether all operations but the switched one are in INT8, or in float.
    """

    def __init__(self, network: nn.Module, scales: ScaleCache, *, quantized: bool):
        self._network = quantize(network, scales).requires_grad_(False)
        self._quantized = quantized
        self._tape = _Tape()
        self._operations = quantized_operations(self._network)
        for name, operation in self._operations.items():
            parent, _, leaf = name.rpartition(".")
            setattr(self._network.get_submodule(parent), leaf, _Taped(operation, self._tape))

    def in_float(self, run: Run[T]) -> T:
        """Returns ``run(network)`` with every operation in float."""
        for operation in self._operations.values():
            operation.enabled = False
        self._tape.rewind(start=0, recording=False)
        return run(self._network)

    def record(self, run: Run[T]) -> T:
        """Returns ``run(network)`` with no operation switched, and keeps what each computes.

        Args:
            run: Runs the network once on a batch, which it has to do again in :meth:`switched`.
        """
        self._restore()
        self._tape.rewind(start=0, recording=True)
        return run(self._network)

    def switched(self, name: str, run: Run[T]) -> T:
        """Returns ``run(network)`` with one operation switched, for the recorded batch."""
        self._restore()
        operation = self._operations[name]
        operation.enabled = not self._quantized
        self._tape.rewind(start=self._tape.first_call(operation), recording=False)
        return run(self._network)

    def computed_share(self, name: str) -> float:
        """Returns the share of the operations' calls that :meth:`switched` computes."""
        calls = len(self._tape.calls)
        return 1 - self._tape.first_call(self._operations[name]) / calls

    def _restore(self) -> None:
        for operation in self._operations.values():
            operation.enabled = self._quantized


class _Tape:
    """The calls of the operations in the order of one pass, each with its output."""

    def __init__(self) -> None:
        self.calls: list[tuple[FakeQuantized, Tensor]] = []
        self._position = 0
        self._start = 0
        self._recording = False

    def rewind(self, *, start: int, recording: bool) -> None:
        self._position, self._start, self._recording = 0, start, recording
        if recording:
            self.calls = []

    def first_call(self, operation: FakeQuantized) -> int:
        return next(i for i, (owner, _) in enumerate(self.calls) if owner is operation)

    def output(self, operation: FakeQuantized, values: Tensor) -> Tensor:
        position = self._position
        self._position += 1
        # Copies, as the network may change in place what it is given.
        if position < self._start:
            owner, kept = self.calls[position]
            assert owner is operation, "the network runs its operations in another order now"
            return kept.clone()
        output: Tensor = operation(values)
        if self._recording:
            self.calls.append((operation, output.clone()))
        return output


@final
class _Taped(nn.Module):
    """Stands in a network for an operation."""

    def __init__(self, operation: FakeQuantized, tape: _Tape):
        super().__init__()
        self.operation = operation
        self._tape = tape

    def forward(self, values: Tensor) -> Tensor:
        return self._tape.output(self.operation, values)
