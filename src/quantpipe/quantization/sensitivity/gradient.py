"""Degradation by all operations at once, from forward and backward passes: ``gradient``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import TypeVar

import torch
from torch import Tensor, nn

from quantpipe.progress import stop_if_asked
from quantpipe.quantization.output_error import OutputError
from quantpipe.quantization.random_projection import projected, random_signs
from quantpipe.quantization.sensitivity.degradation import mean_degradation
from quantpipe.quantization.sensitivity.ranking import Measured, Method, RankingTask
from quantpipe.quantization.simulation.network import (
    FakeQuantized,
    only_quantized,
    quantize,
    quantized_operations,
)

B = TypeVar("B")
ByOperation = dict[str, list[float]]  # one value for each image


def by_gradient(
    outputs: Callable[[nn.Module, B], Sequence[Tensor]],
    error: OutputError,
    *,
    num_projections: int,
) -> Method[B]:
    """Returns the method that estimates the error of the outputs to second order.

    Switching an operation changes its output z by e, and so the outputs by J e to first order. The
    error is then the sum of h (J e)^2, with h its curvature (generalized Gauss-Newton, Schraudolph,
    Neural Computation 14, 2002). With L = sum of v sqrt(h) y over the outputs y, v = +-1 at random,
    its expectation is E[(dL/dz . e)^2] (Hutchinson, 1989): one backward pass serves all operations.
    Summing before squaring keeps what the errors of an operation have in common, as those of
    rounded weights do at every place.

    In direction ``all_but`` gradients and errors are those inside the INT8 network, gradients
    passing roundings unchanged (straight-through): the change that an operation in float makes
    there, but for what the roundings behind it add or take away.

    Args:
        outputs: Of a network on images, each (B, ...).
        error: What is estimated.
        num_projections: Draws of v for each image.
    """

    def measure(task: RankingTask[B]) -> Measured:
        start = time.perf_counter()
        processes, names = task.processes, task.names
        network = quantize(task.network, task.scales).requires_grad_(False)
        switched = names if task.direction == "all_but" else ()
        degradation: dict[int, ByOperation] = {}
        for number, batch in enumerate(
            task.progress.track(task.batches, "sensitivity", total=task.num_batches)
        ):
            if number % processes.size != processes.rank:
                continue
            with only_quantized(network, switched), torch.enable_grad():
                products = _Products(network, names)
                found = outputs(network, batch)
                for projection in range(num_projections):
                    first = number * task.batch_size
                    signs = random_signs(found, first, projection, task.seed)
                    products.backward(projected(found, error, signs), len(found[0]))
            products.release()
            degradation[number] = products.means()
            stop_if_asked(task.progress)
        parts = processes.all_gather((degradation, time.perf_counter() - start))
        return Measured(
            degradation=mean_degradation(_in_order([part for part, _ in parts], names)),
            seconds=max(seconds for _, seconds in parts),
            passes=2.0 + num_projections,
        )

    return measure


def _in_order(parts: Sequence[Mapping[int, ByOperation]], names: Sequence[str]) -> ByOperation:
    """Joins what several processes found, by number of batch, to the images in their order."""
    by_batch = sorted((item for part in parts for item in part.items()), key=itemgetter(0))
    return {name: [v for _, of_batch in by_batch for v in of_batch[name]] for name in names}


class _Products:
    """For each operation and image the inner product of dL/dz and e, squared, over projections.

    Hooks see the network's next forward pass; an operation that it calls several times adds up.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]):
        self._squares: list[dict[str, Tensor]] = []
        self._products: dict[str, Tensor] = {}
        modules = quantized_operations(network)
        self._names = names
        self._handles = [modules[name].register_forward_pre_hook(_with_gradient) for name in names]
        self._handles += [modules[name].register_forward_hook(self._watch(name)) for name in names]

    def backward(self, loss: Tensor, num_images: int) -> None:
        """Adds the squares for one projection."""
        zeros = torch.zeros(num_images, dtype=torch.float64, device=loss.device)
        self._products = {name: zeros.clone() for name in self._names}
        loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        self._squares.append({name: p.square() for name, p in self._products.items()})

    def means(self) -> ByOperation:
        """Returns the mean of the squares over the projections, for each image."""
        return {
            name: torch.stack([squares[name] for squares in self._squares]).mean(dim=0).tolist()
            for name in self._names
        }

    def release(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _watch(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        last: Tensor | None = None

        def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal last
            assert isinstance(module, FakeQuantized)
            # Pooling its own result, it would find it rounded already.
            again, last = inputs[0] is last and module.weight is None, output
            if again:
                return
            with torch.no_grad():
                other = module.unquantized if module.enabled else module.quantized
                error = other(inputs[0]) - output

            def multiply(gradient: Tensor) -> None:
                self._products[name] += (gradient * error).flatten(1).double().sum(dim=1)

            output.register_hook(multiply)  # type: ignore[no-untyped-call]

        return watch


def _with_gradient(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: ARG001
    """Lets gradients begin at the first operation: neither weights nor images ask for any."""
    return inputs if inputs[0].requires_grad else (inputs[0].detach().requires_grad_(True),)
