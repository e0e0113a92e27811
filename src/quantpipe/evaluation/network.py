"""A network as what is measured: images in, predictions out, no gradients."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantpipe.evaluation.accuracy import Predictor


def predict_with(network: nn.Module, images: Tensor) -> Tensor:
    """Runs a network in evaluation mode without gradients."""
    with torch.inference_mode():
        return cast("Tensor", network(images))


def predictor(network: nn.Module, device: str) -> Predictor:
    """A network as a function of arrays."""

    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        tensor = torch.from_numpy(images).to(device)
        array: NDArray[np.float32] = predict_with(network, tensor).float().cpu().numpy()
        return array

    return predict
