"""Times training: the data alone, forward and backward alone, and the whole loop, side by side.

python benchmarks/training.py [--data ROOT] [--json FILE] [--quick] [--form FORM ...]

The bare network and the loop take turns, so that a slow moment of the machine hits both. ``bare``
is the network's forward and backward pass on one batch that lies ready; ``loop`` is what
``train_repopt`` runs: loading, augmentation, assignment, losses, masks, optimizer, moving average.
``waiting`` is the part of the loop in which no batch was ready.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from quantpipe.cli.composition import config_folder
from quantpipe.cli.config import read_run
from quantpipe.data.coco import read_coco
from quantpipe.data.coco_layout import find_coco_split
from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.loader import Batch
from quantpipe.data.shapes import generate_shapes
from quantpipe.detector.families.yolov6.architecture import BlockForm
from quantpipe.detector.families.yolov6.family import Yolov6Settings, architecture
from quantpipe.detector.families.yolov6.loss import detection_loss
from quantpipe.detector.families.yolov6.loss_settings import Yolov6Loss
from quantpipe.detector.families.yolov6.network import Detector, build_detector
from quantpipe.detector.families.yolov6.rep_optimizer import (
    extract_scales,
    gradient_masks,
    initialize_from_scales,
)
from quantpipe.process_group import SingleProcess
from quantpipe.progress import Silent
from quantpipe.settings.model import input_of
from quantpipe.settings.training import recipe
from quantpipe.stages.train_repopt.config import TrainRepoptConfig
from quantpipe.training.epochs import Observers
from quantpipe.training.fit import DatasetBatches
from quantpipe.training.log import NoLog
from quantpipe.training.loop import train
from quantpipe.training.memory_order import memory_order
from quantpipe.training.recipe import Recipe
from quantpipe.training.step import Objective
from quantpipe.training.step_batches import BatchSource

FORMS: tuple[BlockForm, ...] = ("repopt", "linear_add", "repvgg")
NUM_WORKERS = (0, 2)
CPU = torch.device("cpu")
MILLI = 1e3


@dataclass(frozen=True, kw_only=True)
class Row:
    """Medians over the rounds; milliseconds an image, but for ``waiting``, a fraction."""

    form: str
    precision: str
    num_workers: int
    data: float
    bare: float
    loop: float
    waiting: float

    @property
    def ratio(self) -> float:
        """The loop over the bare network."""
        return self.loop / self.bare


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is timed: one form of the network on one data set."""

    dataset: DetectionDataset
    settings: TrainRepoptConfig
    form: BlockForm
    steps: int

    def detector(self) -> Detector:
        """A fresh network."""
        model = self.settings.model
        assert isinstance(model, Yolov6Settings)
        shape = architecture(model, num_classes=len(self.dataset.class_names))
        return build_detector(shape, self.form, seed=0)


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a COCO data set (default: generated images)")
    parser.add_argument("--size", type=int, default=320, help="pixels (default: 320)")
    parser.add_argument("--batch", type=int, default=16, help="images (default: 16)")
    parser.add_argument("--form", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="one form, one round")
    options = parser.parse_args()
    rounds, forms = (1, FORMS[:1]) if options.quick else (options.rounds, tuple(options.form))
    settings = shipped_settings(options.size, options.batch)
    with tempfile.TemporaryDirectory() as folder:
        dataset = open_data(options.data, options.size, Path(folder))
        steps = max(1, len(dataset.images) // options.batch)
        rows = [
            row
            for form in forms
            for row in measured(
                Subject(dataset=dataset, settings=settings, form=form, steps=steps), rounds
            )
        ]
    report(rows, options.json)


def shipped_settings(image_size: int, batch_size: int) -> TrainRepoptConfig:
    """The recipe of the default run for YOLOv6-N."""
    overrides = ["device=cpu", "model=yolov6n", f"model.image_size={image_size}"]
    overrides += [f"train_repopt.batch_size={batch_size}"]
    overrides += [f"train_repopt.schedule.nominal_batch={batch_size}"]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        run = read_run(compose("config", overrides=overrides), overrides)
    config = run.pipeline.steps[0].config
    assert isinstance(config, TrainRepoptConfig)
    return config


def open_data(root: Path | None, image_size: int, folder: Path) -> DetectionDataset:
    """The training images of a data set, or 256 generated ones."""
    if root is None:
        root = folder
        generate_shapes(
            root,
            num_train=256,
            num_val=1,
            image_size=image_size,
            num_classes=4,
            difficulty=0.4,
            seed=0,
            progress=Silent(),
        )
    images, annotations = find_coco_split(root, "train")
    return read_coco(images, annotations, max_bad_images=0, strict=False)


def measured(subject: Subject, rounds: int) -> list[Row]:
    """Times one form of the network in both precisions and with each number of workers."""
    return [
        _row(subject, mixed, num_workers, rounds)
        for mixed in (False, True)
        for num_workers in NUM_WORKERS
    ]


def _row(subject: Subject, mixed: bool, num_workers: int, rounds: int) -> Row:
    source = _source(subject, num_workers)
    num_batches = source.num_batches
    first = next(iter(source(epoch=0, start_batch=0, strong=True)))
    bare = bare_pass(subject, first, mixed)
    timings: list[tuple[float, float, float, float]] = []
    for number in range(rounds + 1):  # the first warms up: images decoded, kernels chosen
        data = _seconds(lambda: _drain(source(epoch=0, start_batch=0, strong=True)))
        alone = _seconds(lambda: _repeat(bare, num_batches))
        loop, waiting = run_loop(subject, mixed, num_workers)
        if number:
            timings.append((data / num_batches, alone / num_batches, loop, waiting))
    data, alone, loop, waiting = (
        statistics.median(column) for column in zip(*timings, strict=True)
    )
    size = subject.settings.batch_size
    return Row(
        form=subject.form,
        precision="bf16" if mixed else "fp32",
        num_workers=num_workers,
        data=data / size * MILLI,
        bare=alone / size * MILLI,
        loop=loop / size * MILLI,
        waiting=waiting,
    )


def bare_pass(subject: Subject, batch: Batch, mixed: bool) -> Callable[[], None]:
    """Forward and backward of the network alone, with a sum for a loss."""
    detector = subject.detector()
    order = memory_order(detector, channels_last=True, device=CPU)
    detector.to(memory_format=order).train()  # type: ignore[call-overload]
    images = (batch.images.float() / 255).contiguous(memory_format=order)

    def run() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            prediction = detector.predict(images)
        total = prediction.class_logits.float().mean() + prediction.distances.float().mean()
        total.backward()  # type: ignore[no-untyped-call]
        detector.zero_grad()

    return run


def run_loop(subject: Subject, mixed: bool, num_workers: int) -> tuple[float, float]:
    """One epoch of the real loop: seconds a step, and the fraction spent waiting for batches."""
    source = _source(subject, num_workers)
    clock = Clock(source)
    detector = subject.detector()
    with tempfile.TemporaryDirectory() as folder:
        numbers, settings = _recipe(subject, mixed), subject.settings
        assert isinstance(settings.loss, Yolov6Loss)
        result = train(
            detector,
            clock,
            numbers,
            Objective(
                loss=detection_loss(settings.loss),
                extra_loss=None,
                gradient_masks=_masks(subject, detector),
            ),
            input_of(settings.model),
            device=CPU,
            processes=SingleProcess(),
            save_every=10_000,
            progress_folder=Path(folder),
            observers=Observers(validate=None, log=NoLog(), progress=Silent(), description="loop"),
        )
    seconds = result.history[0]["seconds"]
    return seconds / source.num_batches, clock.waited / seconds


class Clock:
    """A batch source that measures how long its reader waits."""

    def __init__(self, source: BatchSource):
        self._source = source
        self.num_batches = source.num_batches
        self.waited = 0.0

    def __call__(self, *, epoch: int, start_batch: int, strong: bool) -> Iterator[Batch]:
        """Yields the batches of the source."""
        batches = self._source(epoch=epoch, start_batch=start_batch, strong=strong)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch


def _source(subject: Subject, num_workers: int) -> DatasetBatches:
    settings = subject.settings
    return DatasetBatches(
        dataset=subject.dataset,
        specification=input_of(settings.model),
        batch_size=settings.batch_size,
        seed=0,
        augmentation=settings.augmentation,
        num_workers=num_workers,
        cache_mib=settings.cache_mib,
        rank=0,
        num_ranks=1,
    )


def _recipe(subject: Subject, mixed: bool) -> Recipe:
    settings = subject.settings
    schedule = replace(settings.schedule, mixed_precision=mixed, no_augmentation_epochs=0)
    return replace(recipe(settings), epochs=1, schedule=schedule)


def _masks(subject: Subject, detector: Detector) -> dict[str, torch.Tensor] | None:
    if subject.form != "repopt":
        return None
    search = build_detector(detector.architecture, "linear_add", seed=0)
    scales = extract_scales(search)
    initialize_from_scales(detector, scales, seed=0)
    return gradient_masks(detector, scales)


def _drain(batches: Iterator[Batch]) -> None:
    for _ in batches:
        pass


def _repeat(work: Callable[[], None], times: int) -> None:
    for _ in range(times):
        work()


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(rows: list[Row], path: Path | None) -> None:
    """Prints the table and writes the figures."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{torch.get_num_threads()} threads; ms an image (images per second)")
    titles = ("form", "precision", "workers", "data", "bare", "loop", "loop/bare", "waiting")
    print("{:<12}{:<10}{:>8}{:>16}{:>16}{:>16}{:>11}{:>9}".format(*titles))
    for row in rows:
        rates = (f"{ms:.1f} ({MILLI / ms:.0f}/s)" for ms in (row.data, row.bare, row.loop))
        print(
            "{:<12}{:<10}{:>8}{:>16}{:>16}{:>16}".format(
                row.form, row.precision, row.num_workers, *rates
            )
            + f"{row.ratio:>11.2f}{row.waiting:>9.1%}"
        )
    print(f"peak memory {peak:.0f} MiB")
    if path is not None:
        figures = {
            "peak_mib": peak,
            "rows": [{**asdict(r), "loop_over_bare": r.ratio} for r in rows],
        }
        path.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
