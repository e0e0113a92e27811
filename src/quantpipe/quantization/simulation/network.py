"""A network with its INT8 operations simulated in float, for measuring and for training through."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from quantpipe.errors import ArtifactError
from quantpipe.quantization.operations import KINDS
from quantpipe.quantization.precision_plan import PrecisionPlan
from quantpipe.quantization.scale_cache import ScaleCache, TensorScale
from quantpipe.quantization.simulation.ranges import Fixed, Range, RangeRule

Network = TypeVar("Network", bound=nn.Module)
_Compute = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


# Functions with names rather than closures: ranks that train along get pickled copies.
def _conv2d(settings: Mapping[str, Any], x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
    return F.conv2d(x, weight, bias, **settings)


def _conv_transpose2d(
    settings: Mapping[str, Any], x: Tensor, weight: Any, bias: Tensor | None
) -> Tensor:
    return F.conv_transpose2d(x, weight, bias, **settings)


def _max_pool2d(settings: Mapping[str, Any], x: Tensor, *_: None) -> Tensor:
    pooled: Tensor = F.max_pool2d(x, **settings)
    return pooled


def _settings(module: nn.Module, *names: str) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names}


def _conv(module: nn.Module) -> _Compute:
    assert isinstance(module, nn.Conv2d)
    assert module.padding_mode == "zeros", "INT8 engines pad with zeros"
    return partial(_conv2d, _settings(module, "stride", "padding", "dilation", "groups"))


def _conv_transpose(module: nn.Module) -> _Compute:
    names = ("stride", "padding", "output_padding", "groups", "dilation")
    return partial(_conv_transpose2d, _settings(module, *names))


def _max_pool(module: nn.Module) -> _Compute:
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    return partial(_max_pool2d, _settings(module, *names))


_COMPUTE: Mapping[type[nn.Module], Callable[[nn.Module], _Compute]] = {
    nn.Conv2d: _conv,
    nn.ConvTranspose2d: _conv_transpose,
    nn.MaxPool2d: _max_pool,
}


_RANGES = {"_input_range", "_weight_range"}


class FakeQuantized(nn.Module):
    """An operation whose input and weight are rounded to integers of a range.

    Holds the parameters of the operation under their own names. With fixed ranges a state dict
    contains nothing else: one of the float network fits, and the other way round. Ranges that are
    trained add entries; :func:`without_ranges` leaves them out.

    Attributes:
        enabled: False computes in float.
        activation: The calibrated range of the input.
        weight_scale: The calibrated range of the weight, where there is one.
        bias_correction: (C_out,), added to the bias in INT8 only, or None.
    """

    def __init__(
        self,
        operation: nn.Module,
        activation: TensorScale,
        weight: TensorScale | None,
        rule: RangeRule,
        shared_input_range: Range | None,
        bias_correction: Tensor | None,
    ):
        super().__init__()
        self.enabled = True
        self.activation = activation
        self.weight_scale = weight
        self._compute = _COMPUTE[type(operation)](operation)
        self.weight: nn.Parameter | None
        self.bias: nn.Parameter | None
        for name in ("weight", "bias"):
            self.register_parameter(name, getattr(operation, name, None))
        # Only the first operation of a group registers their range, or it would be saved, and
        # averaged, as often as it is used. A tuple hides it from the others' registration.
        own = rule.of_input(activation) if shared_input_range is None else None
        self._input_range = own
        self._shared_input_range = (shared_input_range,)
        self._weight_range = None if weight is None else rule.of_weight(weight)
        self.register_buffer("bias_correction", bias_correction, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Maps (B, C_in, H, W) to (B, C_out, H', W') as the operation does."""
        return self.quantized(values) if self.enabled else self.unquantized(values)

    def unquantized(self, values: Tensor) -> Tensor:
        """Computes in float."""
        return self._compute(values, self.weight, self.bias)

    def quantized(self, values: Tensor) -> Tensor:
        """Computes with rounded input and weight, whether enabled or not."""
        weight = self.weight if self._weight_range is None else self._weight_range(self.weight)
        return self._compute(self.input_range(values), weight, self._corrected())

    @property
    def input_range(self) -> Range:
        """The range of the input, which a group of operations may have in common."""
        found = self._shared_input_range[0] or self._input_range
        assert found is not None
        return found

    def _corrected(self) -> Tensor | None:
        correction = cast(Tensor | None, self.bias_correction)
        if self.bias is None or correction is None:
            return self.bias
        return self.bias + correction

    def published_scales(self) -> list[TensorScale]:
        """The ranges of this moment, to deploy with."""
        found = [self.input_range.published(self.activation, None)]
        if self.weight is not None:
            assert self.weight_scale is not None
            assert self._weight_range is not None
            found.append(self._weight_range.published(self.weight_scale, self.weight))
        return found


def quantize(network: Network, scales: ScaleCache, plan: PrecisionPlan | None = None) -> Network:
    """Returns a copy of the network with its INT8 operations simulated, ranges as calibrated.

    Args:
        network: A deployed network (BatchNorm folded). Methods and parameter names are kept.
        scales: Its ranges.
        plan: None quantizes every operation of the cache.

    Raises:
        ArtifactError: A range is missing, or fits no operation of the network.
    """
    return quantize_to_train(network, scales, plan, rule=Fixed(), groups=())


def quantize_to_train(
    network: Network,
    scales: ScaleCache,
    plan: PrecisionPlan | None,
    *,
    rule: RangeRule,
    groups: Collection[frozenset[str]],
) -> Network:
    """Returns a copy of the network with its INT8 operations simulated, to train through.

    Args:
        network: A deployed network (BatchNorm folded). Methods and parameter names are kept.
        scales: Its ranges.
        plan: None quantizes every operation of the cache.
        rule: Whether and how ranges change.
        groups: Of operations whose input ranges must stay one
            (:func:`~quantpipe.quantization.shared_ranges.concat_groups`); each trains one range.

    Raises:
        ArtifactError: A range is missing, or fits no operation of the network.
    """
    copied = copy.deepcopy(network)
    device = next(copied.parameters()).device
    group_of = {name: group for group in groups for name in group}
    shared: dict[frozenset[str], Range] = {}
    for name in scales.operations() if plan is None else plan.quantized:
        parent_path, _, leaf = name.rpartition(".")
        operation = _operation(copied, name)
        activation, weight = _ranges_of(operation, name, scales)
        group = group_of.get(name, frozenset({name}))
        correction = _correction_of(operation, name, scales)
        replacement = FakeQuantized(
            operation, activation, weight, rule, shared.get(group), correction
        )
        replacement.to(device).train(operation.training)
        shared.setdefault(group, replacement.input_range)
        setattr(copied.get_submodule(parent_path), leaf, replacement)
    return copied


def without_ranges(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the entries of a fake-quantized network's state dict that its float self has too."""
    return {
        name: tensor
        for name, tensor in state.items()
        if not _RANGES.intersection(name.split(".")[:-1])
    }


def _operation(network: nn.Module, name: str) -> nn.Module:
    try:
        module = network.get_submodule(name)
    except AttributeError:
        raise ArtifactError(
            f"the network has no operation '{name}'", hint="use scales and a plan of this model"
        ) from None
    if type(module) not in KINDS:
        raise ArtifactError(f"'{name}' is a {type(module).__name__}, which is not quantized")
    return module


def _ranges_of(
    operation: nn.Module, name: str, scales: ScaleCache
) -> tuple[TensorScale, TensorScale | None]:
    hint = "calibrate this model"
    activation = scales.scales.get(f"{name}.input")
    weight = scales.scales.get(f"{name}.weight")
    if activation is None:
        raise ArtifactError(f"there is no input range for operation '{name}'", hint=hint)
    if not isinstance(operation, nn.Conv2d | nn.ConvTranspose2d):
        return activation, None
    if weight is None:
        raise ArtifactError(f"there is no weight range for operation '{name}'", hint=hint)
    channels = 1 if weight.axis is None else operation.weight.shape[weight.axis]
    if len(weight.amax) != channels:
        raise ArtifactError(
            f"operation '{name}' has {channels} channels and {len(weight.amax)} weight ranges",
            hint=hint,
        )
    return activation, weight


def _correction_of(operation: nn.Module, name: str, scales: ScaleCache) -> Tensor | None:
    values = scales.bias_corrections.get(name)
    if values is None:
        return None
    bias = getattr(operation, "bias", None)
    channels = 0 if bias is None else len(bias)
    if len(values) != channels:
        raise ArtifactError(
            f"operation '{name}' has {channels} biases and {len(values)} corrections of them",
            hint="calibrate this model",
        )
    return torch.tensor(values)


def quantized_operations(network: nn.Module) -> dict[str, FakeQuantized]:
    """Returns the simulated operations of a network by path."""
    return {n: m for n, m in network.named_modules() if isinstance(m, FakeQuantized)}


@contextmanager
def only_quantized(network: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Computes all but the named operations in float inside the ``with`` block."""
    operations = quantized_operations(network)
    before = {name: operation.enabled for name, operation in operations.items()}
    unknown = set(names) - set(operations)
    assert not unknown, f"not quantized: {unknown}"
    for name, operation in operations.items():
        operation.enabled = name in names
    try:
        yield
    finally:
        for name, operation in operations.items():
            operation.enabled = before[name]
