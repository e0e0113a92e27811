"""TensorBoard logs of a training: losses, rates, mAP, and detections on a few images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.images import read_image
from quantpipe.data.loader import evaluation_batches
from quantpipe.data.network_input import as_array
from quantpipe.detector.input_specification import InputSpecification
from quantpipe.evaluation.accuracy import detect
from quantpipe.evaluation.network import predictor
from quantpipe.report.pictures import detection_image
from quantpipe.training.log import NoLog, TrainingLog

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

NUM_EXAMPLES = 4

Pictures = Sequence[NDArray[np.uint8]]


class TensorBoardLog:
    """Writes event files; made on the first word, so that a resumed training goes on there.

    Args:
        folder: Where to write.
        draw: Pictures (H, W, 3) of a network's detections.
    """

    def __init__(self, folder: Path, draw: Callable[[nn.Module], Pictures]):
        self._folder = folder
        self._draw = draw
        self._writer: SummaryWriter | None = None

    def step(self, step: int, losses: Mapping[str, float], rates: Mapping[str, float]) -> None:
        """Writes one point for each curve."""
        writer = self._at(step)
        for group, values in (("loss", losses), ("rate", rates)):
            for name, value in values.items():
                writer.add_scalar(f"{group}/{name}", value, step)

    def validated(self, step: int, score: float, network: nn.Module) -> None:
        """Writes the mAP and the pictures."""
        writer = self._at(step)
        writer.add_scalar("mAP 50:95", score, step)
        for number, picture in enumerate(self._draw(network)):
            writer.add_image(f"validation/{number}", picture, step, dataformats="HWC")

    def close(self) -> None:
        """Writes what is still in memory."""
        if self._writer is not None:
            self._writer.close()

    def _at(self, step: int) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # What a killed run wrote past the state that was saved is not shown twice.
            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        return self._writer


@contextmanager
def training_log(
    folder: Path | None,
    held_out: DetectionDataset | None,
    specification: InputSpecification,
    *,
    device: str,
) -> Iterator[TrainingLog]:
    """A log in ``folder``, closed at the end; none where there is no folder."""
    if folder is None:
        yield NoLog()
        return
    log = TensorBoardLog(
        folder, lambda network: _examples(network, held_out, specification, device)
    )
    try:
        yield log
    finally:
        log.close()


def _examples(
    network: nn.Module,
    dataset: DetectionDataset | None,
    specification: InputSpecification,
    device: str,
) -> Pictures:
    if dataset is None:
        return ()
    few = dataset.subset(range(min(NUM_EXAMPLES, len(dataset.images))))
    found = detect(
        predictor(network, device),
        as_array(specification),
        evaluation_batches(
            few, specification=specification, batch_size=NUM_EXAMPLES, num_workers=0
        ),
        {record.image_id: (record.width, record.height) for record in few.images},
    )
    return [
        np.asarray(
            detection_image(
                read_image(record.path), seen.boxes, seen.scores, seen.labels, few.class_names
            )
        )
        for record, seen in zip(few.images, found, strict=True)
    ]
