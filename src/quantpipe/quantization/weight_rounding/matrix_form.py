"""A convolution as a product of matrices: each output is a row of weights times a patch of inputs.

For a transposed convolution whose kernel is as large as its stride the patch is one input cell and
there are as many rows for each channel as the kernel has cells.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Patches(NamedTuple):
    """What an operation reads and gives at some positions.

    Attributes:
        inputs: (N, K).
        outputs: (N, R).
    """

    inputs: Tensor
    outputs: Tensor


class MatrixForm(Protocol):
    """R outputs from K inputs."""

    def matrix(self, weight: Tensor) -> Tensor:
        """Returns a tensor of the weight's shape as (R, K)."""
        ...

    def weight(self, matrix: Tensor) -> Tensor:
        """Undoes :meth:`matrix`."""
        ...

    def rows(self, channels: Tensor) -> Tensor:
        """Returns one value per output channel as one per row, (R,)."""
        ...

    def patches(self, inputs: Tensor, outputs: Tensor, count: int, seed: int) -> Patches:
        """Returns what ``count`` positions read and give, or all where there are no more.

        Args:
            inputs: (B, C_in, H, W).
            outputs: (B, C_out, H', W').
            count: How many, drawn without repetition.
            seed: Of the draw; made on the processor, so equal on every device.
        """
        ...


def matrix_form(operation: nn.Module) -> MatrixForm | None:
    """Returns the matrix form of an operation, or None where it has none of one matrix.

    Groups, dilation, and transposed convolutions whose cells overlap or are padded have none.
    """
    if isinstance(operation, nn.Conv2d):
        plain = operation.groups == 1 and operation.dilation == (1, 1)
        numeric = not isinstance(operation.padding, str) and operation.padding_mode == "zeros"
        return _Convolution(operation) if plain and numeric else None
    if isinstance(operation, nn.ConvTranspose2d):
        plain = operation.groups == 1 and operation.dilation == (1, 1)
        tiles = operation.kernel_size == operation.stride
        unpadded = operation.padding == (0, 0) and operation.output_padding == (0, 0)
        return _TransposedConvolution(operation) if plain and tiles and unpadded else None
    return None


class _Convolution:
    def __init__(self, operation: nn.Conv2d):
        self._shape = operation.weight.shape
        self._stride = operation.stride
        self._padding = cast(tuple[int, int], operation.padding)

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.flatten(1)

    def weight(self, matrix: Tensor) -> Tensor:
        return matrix.reshape(self._shape)

    def rows(self, channels: Tensor) -> Tensor:
        return channels

    def patches(self, inputs: Tensor, outputs: Tensor, count: int, seed: int) -> Patches:
        image, row, column = _positions(outputs, count, seed)
        (pad_y, pad_x), (stride_y, stride_x) = self._padding, self._stride
        height, width = self._shape[2:]
        padded = F.pad(inputs, (pad_x, pad_x, pad_y, pad_y))
        y = (row * stride_y)[:, None, None] + torch.arange(height, device=row.device)[:, None]
        x = (column * stride_x)[:, None, None] + torch.arange(width, device=row.device)
        read = padded[image[:, None, None], :, y, x]  # (N, height, width, C_in)
        return Patches(read.permute(0, 3, 1, 2).flatten(1), outputs[image, :, row, column])


class _TransposedConvolution:
    def __init__(self, operation: nn.ConvTranspose2d):
        self._shape = operation.weight.shape

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.permute(1, 2, 3, 0).flatten(0, 2)

    def weight(self, matrix: Tensor) -> Tensor:
        inputs, *cells = self._shape
        return matrix.reshape(*cells, inputs).permute(3, 0, 1, 2).contiguous()

    def rows(self, channels: Tensor) -> Tensor:
        return channels.repeat_interleave(self._shape[2] * self._shape[3])

    def patches(self, inputs: Tensor, outputs: Tensor, count: int, seed: int) -> Patches:
        image, row, column = _positions(inputs, count, seed)
        height, width = self._shape[2:]
        y = (row * height)[:, None, None] + torch.arange(height, device=row.device)[:, None]
        x = (column * width)[:, None, None] + torch.arange(width, device=row.device)
        given = outputs[image[:, None, None], :, y, x]  # (N, height, width, C_out)
        return Patches(inputs[image, :, row, column], given.permute(0, 3, 1, 2).flatten(1))


def _positions(values: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns image, row and column of ``count`` cells of (B, C, H, W), in ascending order."""
    images, _, height, width = values.shape
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(images * height * width, generator=generator)[:count].sort().values
    drawn = drawn.to(values.device)
    cell = drawn % (height * width)
    return drawn // (height * width), cell // width, cell % width
