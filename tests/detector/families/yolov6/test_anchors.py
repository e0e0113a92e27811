from __future__ import annotations

import torch

from quantpipe.detector.families.yolov6.anchors import anchor_points, decode_boxes


def test_points_are_the_cell_centers_row_by_row() -> None:
    points, strides = anchor_points([(2, 3), (1, 2)], (8, 16), "cpu")
    assert points.tolist() == [
        [4.0, 4.0],
        [12.0, 4.0],
        [20.0, 4.0],
        [4.0, 12.0],
        [12.0, 12.0],
        [20.0, 12.0],
        [8.0, 8.0],
        [24.0, 8.0],
    ]
    assert strides.tolist() == [[8.0]] * 6 + [[16.0]] * 2
    assert points.dtype == strides.dtype == torch.float32


def test_boxes_reach_the_given_number_of_cells() -> None:
    points, strides = anchor_points([(1, 1), (1, 1)], (8, 32), "cpu")
    distances = torch.tensor([[[0.5, 1.0, 1.5, 2.0], [0.25, 0.5, 0.0, -0.25]]])
    boxes = decode_boxes(distances, points, strides)
    assert boxes.tolist() == [[[0.0, -4.0, 16.0, 20.0], [8.0, 0.0, 16.0, 8.0]]]


def test_decoding_inverts_encoding() -> None:
    points, strides = anchor_points([(8, 8), (4, 4), (2, 2)], (8, 16, 32), "cpu")
    corner = torch.rand(2, 84, 2, generator=torch.Generator().manual_seed(0)) * 40
    boxes = torch.cat([corner, corner + 20], dim=-1)
    sides = torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)
    torch.testing.assert_close(decode_boxes(sides / strides, points, strides), boxes)
