from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from quantpipe.errors import ArtifactError
from quantpipe.quantization.float_operations import restore_float_operations
from quantpipe.quantization.precision_plan import PrecisionPlan

if TYPE_CHECKING:
    from tests.quantization.conftest import SmallNetwork


def test_only_float_operations_get_their_parameters_back(network: SmallNetwork) -> None:
    fitted = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in fitted.parameters():
            parameter.add_(1.0)
    plan = PrecisionPlan(
        operations={"stem": "int8", "pool": "float", "up": "float", "left": "float"}, reason=""
    )
    restored = restore_float_operations(fitted, network, plan)
    for name, parameter in restored.named_parameters():
        source = network if name.split(".")[0] in ("up", "left") else fitted
        assert parameter.equal(source.get_parameter(name)), name
    assert not fitted.left.weight.equal(network.left.weight)


def test_another_network_is_refused(network: SmallNetwork) -> None:
    plan = PrecisionPlan(operations={"left": "float"}, reason="")
    other = copy.deepcopy(network)
    other.left = nn.Conv2d(8, 6, 1)
    with pytest.raises(ArtifactError, match=r"'left\.weight' is not the same"):
        restore_float_operations(network, other, plan)
    other.left = nn.Conv2d(8, 5, 1, bias=False)
    with pytest.raises(ArtifactError, match=r"'left\.bias' is not the same"):
        restore_float_operations(network, other, plan)
