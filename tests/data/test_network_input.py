"""The numbers that a network takes are those of an independent computation, to the bit."""

from __future__ import annotations

import numpy as np
import torch
from tests.input_specifications import letterboxed

from quantpipe.data.network_input import as_array, network_input

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 3, 6, 10), dtype=np.uint8)


def test_red_green_blue_from_0_to_1_is_a_division() -> None:
    found = network_input(torch.from_numpy(IMAGES), letterboxed(6, 10))
    np.testing.assert_array_equal(found.numpy(), IMAGES.astype(np.float32) / np.float32(255))
    assert found.dtype == torch.float32


def test_blue_green_red_is_normalized_by_its_own_channels() -> None:
    mean, std = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
    taken = letterboxed(6, 10, colors="bgr", divisor=1.0, mean=mean, std=std)
    found = as_array(taken)(torch.from_numpy(IMAGES))
    for channel, (average, spread) in enumerate(zip(mean, std, strict=True)):
        values = IMAGES[:, 2 - channel].astype(np.float32)
        expected = (values - np.float32(average)) / np.float32(spread)
        np.testing.assert_array_equal(found[:, channel], expected)


def test_the_images_stay_as_they_were() -> None:
    images = torch.from_numpy(IMAGES.copy())
    network_input(images, letterboxed(6, 10, mean=(0.5, 0.5, 0.5)))
    assert (images.numpy() == IMAGES).all()
