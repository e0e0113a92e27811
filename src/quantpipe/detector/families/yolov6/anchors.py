"""Cell centers and the boxes around them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CELL_CENTER = 0.5


def anchor_points(
    feature_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """Places one anchor point in the center of every cell.

    Args:
        feature_sizes: Height and width, in cells, of each level.
        strides: Pixels per cell of each level.
        device: Where the result lives.

    Returns:
        Points (A, 2), x and y in pixels, and their strides (A, 1) in pixels; float32, level by
        level and row by row.
    """
    points, cell_sizes = [], []
    for (height, width), stride in zip(feature_sizes, strides, strict=True):
        x = (torch.arange(width, device=device, dtype=torch.float32) + CELL_CENTER) * stride
        y = (torch.arange(height, device=device, dtype=torch.float32) + CELL_CENTER) * stride
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack([grid_x, grid_y], dim=-1).view(-1, 2))
        cell_sizes.append(torch.full((height * width, 1), float(stride), device=device))
    return torch.cat(points), torch.cat(cell_sizes)


def decode_boxes(distances: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Turns distances in cells into boxes in pixels.

    Args:
        distances: (B, A, 4) left, top, right and bottom distance from the point, in cells.
        points: (A, 2) in pixels, from :func:`anchor_points`.
        strides: (A, 1) pixels per cell.

    Returns:
        (B, A, 4) boxes x1, y1, x2, y2 in pixels, not clipped to the image.
    """
    left_top, right_bottom = (distances * strides).chunk(2, dim=-1)
    return torch.cat([points - left_top, points + right_bottom], dim=-1)
