"""A network with its INT8 operations simulated in float, for measuring and for training through."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from quantpipe.errors import ArtifactError
from quantpipe.quantization.operations import KINDS
from quantpipe.quantization.precision_plan import PrecisionPlan
from quantpipe.quantization.rounding import fake_quantize
from quantpipe.quantization.scale_cache import ScaleCache, TensorScale
from quantpipe.quantization.weight_ranges import channel_amax

WeightRanges = Literal["fixed", "current"]
Network = TypeVar("Network", bound=nn.Module)
_Compute = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


def _conv(module: nn.Module) -> _Compute:
    assert isinstance(module, nn.Conv2d)
    assert module.padding_mode == "zeros", "INT8 engines pad with zeros"
    stride, padding, dilation, groups = (
        module.stride,
        module.padding,
        module.dilation,
        module.groups,
    )
    return lambda x, weight, bias: F.conv2d(
        x, cast(Tensor, weight), bias, stride, padding, dilation, groups
    )


def _conv_transpose(module: nn.Module) -> _Compute:
    assert isinstance(module, nn.ConvTranspose2d)
    stride, padding, output_padding, groups, dilation = (
        module.stride,
        cast(tuple[int, ...], module.padding),
        module.output_padding,
        module.groups,
        module.dilation,
    )
    return lambda x, weight, bias: F.conv_transpose2d(
        x, cast(Tensor, weight), bias, stride, padding, output_padding, groups, dilation
    )


def _max_pool(module: nn.Module) -> _Compute:
    assert isinstance(module, nn.MaxPool2d)
    size, stride, padding = module.kernel_size, module.stride, module.padding
    dilation, ceil_mode = module.dilation, module.ceil_mode
    return lambda x, weight, bias: F.max_pool2d(  # noqa: ARG005
        x, size, stride, padding, dilation, ceil_mode
    )


_COMPUTE: Mapping[type[nn.Module], Callable[[nn.Module], _Compute]] = {
    nn.Conv2d: _conv,
    nn.ConvTranspose2d: _conv_transpose,
    nn.MaxPool2d: _max_pool,
}


class FakeQuantized(nn.Module):
    """An operation whose input and weight are rounded to integers of fixed ranges.

    Holds the parameters of the operation under their own names, and nothing else that a state dict
    contains: a state dict of the float network fits, and the other way round.

    Attributes:
        enabled: False computes in float.
        weight_ranges: ``fixed``: as calibrated; ``current``: the largest weights of the moment.
        bias_correction: (C_out,), added to the bias in INT8 only, or None.
    """

    def __init__(
        self,
        operation: nn.Module,
        activation: TensorScale,
        weight: TensorScale | None,
        weight_ranges: WeightRanges,
        bias_correction: Tensor | None,
    ):
        super().__init__()
        self.enabled = True
        self.weight_ranges = weight_ranges
        self.activation = activation
        self.weight_scale = weight
        self._compute = _COMPUTE[type(operation)](operation)
        self.weight: nn.Parameter | None
        self.bias: nn.Parameter | None
        for name in ("weight", "bias"):
            self.register_parameter(name, getattr(operation, name, None))
        self.register_buffer("_input_amax", torch.tensor(activation.amax), persistent=False)
        ranges = None if weight is None else torch.tensor(weight.amax)
        self.register_buffer("_weight_amax", ranges, persistent=False)
        self.register_buffer("bias_correction", bias_correction, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Maps (B, C_in, H, W) to (B, C_out, H', W') as the operation does."""
        return self.quantized(values) if self.enabled else self.unquantized(values)

    def unquantized(self, values: Tensor) -> Tensor:
        """Computes in float."""
        return self._compute(values, self.weight, self.bias)

    def quantized(self, values: Tensor) -> Tensor:
        """Computes with rounded input and weight, whether enabled or not."""
        amax = cast(Tensor, self._input_amax)
        values = fake_quantize(values, amax, None, self.activation.max_level)
        weight = self.weight
        if weight is not None:
            assert self.weight_scale is not None
            axis, level = self.weight_scale.axis, self.weight_scale.max_level
            return self._compute(
                values, fake_quantize(weight, self.weight_amax(), axis, level), self._corrected()
            )
        return self._compute(values, None, None)

    def _corrected(self) -> Tensor | None:
        correction = cast(Tensor | None, self.bias_correction)
        if self.bias is None or correction is None:
            return self.bias
        return self.bias + correction

    def weight_amax(self) -> Tensor:
        """Returns the weight ranges in use, (C_out,) or (1,)."""
        assert self.weight is not None
        assert self.weight_scale is not None
        fixed = cast(Tensor, self._weight_amax)
        if self.weight_ranges == "fixed":
            return fixed
        current = channel_amax(self.weight, self.weight_scale.axis)
        return torch.where(current > 0, current, fixed)


def quantize(
    network: Network,
    scales: ScaleCache,
    plan: PrecisionPlan | None = None,
    *,
    weight_ranges: WeightRanges = "fixed",
) -> Network:
    """Returns a copy of the network with its INT8 operations simulated.

    Args:
        network: A deployed network (BatchNorm folded). Methods and parameter names are kept.
        scales: Its ranges. Activation ranges never change.
        plan: None quantizes every operation of the cache.
        weight_ranges: ``fixed`` is the published rule for training: ranges stay as calibrated.
            ``current`` follows the weights.

    Raises:
        ArtifactError: A range is missing, or fits no operation of the network.
    """
    copied = copy.deepcopy(network)
    device = next(copied.parameters()).device
    names = scales.operations() if plan is None else plan.quantized
    for name in names:
        parent_path, _, leaf = name.rpartition(".")
        operation = _operation(copied, name)
        activation, weight = _ranges_of(operation, name, scales)
        correction = _correction_of(operation, name, scales)
        replacement = FakeQuantized(operation, activation, weight, weight_ranges, correction)
        replacement.to(device)
        replacement.train(operation.training)
        setattr(copied.get_submodule(parent_path), leaf, replacement)
    return copied


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
