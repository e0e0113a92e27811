from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from torch import Tensor, nn

from quantpipe.quantization.operations import find_operations
from quantpipe.quantization.precision_plan import PrecisionPlan
from quantpipe.quantization.scale_cache import ScaleCache
from quantpipe.quantization.sensitivity.replay import Replay, Run
from quantpipe.quantization.simulation.network import quantize, quantized_operations

if TYPE_CHECKING:
    from tests.quantization.conftest import SmallNetwork

NAMES = ("stem", "pool", "after_pools", "down", "up", "after_up", "left", "right")


def over(images: Tensor) -> Run[Tensor]:
    def run(changed: nn.Module) -> Tensor:
        return cast(Tensor, cast(Any, changed)(images))

    return run


def planned(network: nn.Module, scales: ScaleCache, name: str, *, quantized: bool) -> nn.Module:
    """From the start: the network with one operation switched, as a plan makes it."""
    chosen = [other for other in NAMES if (other == name) != quantized]
    plan = PrecisionPlan(operations=dict.fromkeys(chosen, "int8"), reason="")
    return quantize(network, scales, plan)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_switched_operation_gives_what_the_whole_network_gives_bit_for_bit(
    network: SmallNetwork, scales: ScaleCache, batches: list[Tensor], quantized: bool, name: str
) -> None:
    """``stem`` is followed by an operation in place, ``pool`` is called twice."""
    replay = Replay(network, scales, quantized=quantized)
    with torch.no_grad():
        for images in batches[:2]:
            replay.record(over(images))
            expected = planned(network, scales, name, quantized=quantized)(images)
            for _ in range(2):  # nothing that was kept is changed by using it
                got = replay.switched(name, over(images))
                assert torch.equal(got, expected)


@pytest.mark.parametrize("quantized", [False, True])
def test_nothing_is_switched_in_the_reference_and_nothing_is_integer_in_float(
    network: SmallNetwork, scales: ScaleCache, batches: list[Tensor], quantized: bool
) -> None:
    replay = Replay(network, scales, quantized=quantized)
    with torch.no_grad():
        exact = network(batches[0])
        base = quantize(network, scales)(batches[0]) if quantized else exact
        assert torch.equal(replay.record(over(batches[0])), base)
        replay.switched("up", over(batches[0]))
        assert torch.equal(replay.in_float(over(batches[0])), exact)
        assert torch.equal(replay.record(over(batches[0])), base)


def test_what_lies_in_front_is_not_computed(
    network: SmallNetwork, scales: ScaleCache, batches: list[Tensor]
) -> None:
    replay = Replay(network, scales, quantized=False)
    computed: list[str] = []

    def run(changed: nn.Module) -> Tensor:
        handles = [
            operation.register_forward_hook(lambda *_, name=name: computed.append(name))
            for name, operation in quantized_operations(changed).items()
        ]
        computed.clear()
        output = cast(Tensor, cast(Any, changed)(batches[0]))
        for handle in handles:
            handle.remove()
        return output

    with torch.no_grad():
        replay.record(run)
        assert len(computed) == 9
        replay.switched("up", run)
    assert [name.partition(".")[0] for name in computed] == ["up", "after_up", "left", "right"]
    assert replay.computed_share("up") == pytest.approx(4 / 9)
    assert replay.computed_share("stem") == 1.0
    assert replay.computed_share("pool") == pytest.approx(8 / 9)


def test_the_network_stays_as_it_was(
    network: SmallNetwork, scales: ScaleCache, batches: list[Tensor]
) -> None:
    before = {name: id(module) for name, module in network.named_modules()}
    Replay(network, scales, quantized=True).record(over(batches[0]))
    assert {name: id(module) for name, module in network.named_modules()} == before
    assert len(find_operations(network, batches[0][:1])) == len(NAMES)
