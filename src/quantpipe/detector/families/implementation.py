"""The heavy half of a family: networks, losses, files that others released."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from quantpipe.detector.checkpoint import Checkpoint


class RawPrediction(NamedTuple):
    """What a network computes for A anchors before it is decoded: what losses are made of.

    Losses, rankings of operations and distillation look at nothing else. An anchor is whatever the
    family has one prediction for: a cell, a query.

    Attributes:
        class_logits: (B, A, C); their sigmoid is the score of a class.
        distances: (B, A, 4), from a point that belongs to the anchor to the left, top, right and
            bottom side of the box, in a unit that belongs to it: opposite ones add up to the
            width and the height.
        features: Maps (B, C_i, H_i, W_i) that a teacher is compared at; none where there are none.
    """

    class_logits: Tensor
    distances: Tensor
    features: tuple[Tensor, ...]

    def of_image(self, row: int) -> RawPrediction:
        """The prediction for one image of the batch, as a batch of one."""
        one = slice(row, row + 1)
        features = tuple(feature[one] for feature in self.features)
        return RawPrediction(self.class_logits[one], self.distances[one], features)


class DetectorNetwork(nn.Module, ABC):
    """A network of a family. Its quantizable operations are modules, called by their paths.

    Copies whose operations are replaced by fake-quantized ones keep its methods.
    """

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Detects: the graph that is deployed.

        Args:
            images: (B, 3, H, W) float32, as the family's input specification says.

        Returns:
            (B, A, 5 + C), float32: center x, center y, width, height in pixels of the input,
            objectness, and C class scores; the score of a class is its product with objectness.
        """

    @abstractmethod
    def predict(self, images: Tensor) -> RawPrediction:
        """The same computation, nothing decoded."""

    @abstractmethod
    def may_use_channels_last(self, device: torch.device) -> bool:
        """Whether it can be trained in this memory order."""


def raw_prediction(network: nn.Module, images: Tensor) -> RawPrediction:
    """What a network of a family, or a fake-quantized copy of one, predicts."""
    return cast("DetectorNetwork", network).predict(images)


def raw_outputs(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Class logits and distances: what decoding has not yet bent."""
    prediction = raw_prediction(network, images)
    return prediction.class_logits, prediction.distances


class LossValue(NamedTuple):
    """A loss to differentiate, and its weighted parts."""

    total: Tensor
    classification: Tensor
    box: Tensor


class DetectionLoss(Protocol):
    """A loss of predictions against labels."""

    def __call__(
        self,
        prediction: RawPrediction,
        boxes: Tensor,
        labels: Tensor,
        *,
        over_processes: Callable[[Tensor], Tensor] = ...,
        assigned_by: RawPrediction | None = None,
    ) -> LossValue:
        """Returns the loss of a batch; those of all processes add up to that of all their batches.

        Args:
            prediction: Of B images.
            boxes: (B, M, 4) x1, y1, x2, y2 in pixels.
            labels: (B, M), negative where a row is padding.
            over_processes: Sums a value over the processes that share the batch.
            assigned_by: Whose prediction decides the targets; None: this one's own.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a training that begins with another training is given.

    Attributes:
        file: Its result, where it has been made before.
        result: Where to write it.
        train: Trains a network in place, and returns the weights to go on with.
    """

    file: Path | None
    result: Path
    train: Callable[[DetectorNetwork], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a training begins with.

    Attributes:
        network: With its first weights, in training mode.
        settings: Of the checkpoint that it becomes.
        masks: What multiplies the gradients, by parameter name; None for nothing.
    """

    network: DetectorNetwork
    settings: Mapping[str, Any]
    masks: Mapping[str, Tensor] | None


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a family gives that can be trained from labels.

    Attributes:
        loss: Of the ``loss`` group, in the family's own type.
        start: From a form of the network that the family knows, the ``model`` group, the number of
            classes, a seed, and what an earlier training is given.
    """

    loss: Callable[[Any], DetectionLoss]
    start: Callable[[str, Any, int, int, Search], Start]


class TakenCheckpoint(NamedTuple):
    """A file of others as one of ours.

    Attributes:
        checkpoint: What was read.
        notes: What was left out and what was taken for granted, a line each.
    """

    checkpoint: Checkpoint
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Released:
    """Files of the family that others released.

    Attributes:
        checkpoint: Reads one as ours: its path, the ``model`` group that it should be of, and the
            names of its classes.
        operation_namer: From the names of our operations, what finds the one that a file calls
            otherwise; None for none of them.
        fold_factors: From the tensors of a file, what folding its BatchNorms multiplies the output
            channels of each convolution by, (C_out,) in float64, by the file's name of it; none
            for a convolution that has no BatchNorm beside it.
        describe: What network the tensors of a file show, and what to do with it: the end of a
            message.
        idle: Layers of such files that take part in no computation.
    """

    checkpoint: Callable[[Path, Any, tuple[str, ...]], TakenCheckpoint]
    operation_namer: Callable[[Iterable[str]], Callable[[str], str | None]]
    fold_factors: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
    describe: Callable[[Mapping[str, Tensor]], str]
    idle: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """The heavy half of a family.

    Attributes:
        check: Raises ArtifactError unless a checkpoint describes one whole detector.
        require_model: Raises ArtifactError unless a checkpoint is of a ``model`` group, whatever
            the size of its images.
        restore: The network of a checkpoint, in evaluation mode; it owns the tensors.
        deploy: The checkpoint of the network that is deployed and computes the same: itself, or one
            with branches merged and BatchNorm folded. Ranges are only ever made for such.
        operations: The quantizable operations of a deployed checkpoint, as paths of modules in the
            order of their execution.
        training: None where the family cannot be trained from labels.
        released: None where no files of others are read.
    """

    check: Callable[[Checkpoint], None]
    require_model: Callable[[Checkpoint, Any], None]
    restore: Callable[[Checkpoint], DetectorNetwork]
    deploy: Callable[[Checkpoint], Checkpoint]
    operations: Callable[[Checkpoint], tuple[str, ...]]
    training: Training | None
    released: Released | None
