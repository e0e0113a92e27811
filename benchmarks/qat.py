"""Times quantization-aware training with fixed, learned and averaged ranges, in turns.

python benchmarks/qat.py [--size 320] [--batch 16] [--steps 4] [--rounds 3] [--json FILE] [--quick]

Each figure is the whole step of ``qat_distill`` on batches that lie ready: YOLOv6-N as student and
teacher, assignment, losses, optimizer, average, ranges. Seconds are of the processor, so that
other work on the machine adds little; ``kept`` is what a student's forward pass keeps for its
backward pass, each piece of memory counted once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from quantpipe.cli.composition import config_folder
from quantpipe.cli.config import read_run
from quantpipe.data.loader import Batch
from quantpipe.detector.families.yolov6.family import architecture, input_of
from quantpipe.detector.families.yolov6.loss import detection_loss
from quantpipe.detector.families.yolov6.loss_settings import Yolov6Loss
from quantpipe.detector.families.yolov6.network import Detector, build_detector, fold_batch_norm
from quantpipe.process_group import SingleProcess
from quantpipe.progress import Silent
from quantpipe.quantization.calibration.collect import collect, solve
from quantpipe.quantization.calibration.weights import weight_scales
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.operations import find_operations
from quantpipe.quantization.scale_cache import ScaleCache, build_scale_cache
from quantpipe.quantization.shared_ranges import concat_groups, unify
from quantpipe.quantization.simulation.network import quantize_to_train
from quantpipe.quantization.simulation.ranges import Averaged, Fixed, Learned, RangeRule
from quantpipe.settings.training import recipe
from quantpipe.stages.qat_distill.config import QatDistillConfig
from quantpipe.training.distillation import distillation_loss
from quantpipe.training.epochs import Observers
from quantpipe.training.log import NoLog
from quantpipe.training.loop import train
from quantpipe.training.step import Objective

RULES: Mapping[str, RangeRule] = {
    "fixed": Fixed(),
    "learned": Learned(lr_factor=1.0),
    "ema": Averaged(decay=0.99, frozen_fraction=0.25),
}
NUM_CLASSES = 3


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=320, help="pixels (default: 320)")
    parser.add_argument("--batch", type=int, default=16, help="images (default: 16)")
    parser.add_argument("--steps", type=int, default=4, help="of one turn (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: 3)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="two images of 96 pixels")
    options = parser.parse_args()
    if options.quick:
        options.size, options.batch, options.steps, options.rounds = 96, 2, 2, 1
    subject = Subject(options.size, options.batch, options.steps)
    seconds: dict[str, list[float]] = {name: [] for name in RULES}
    for number in range(options.rounds + 1):  # the first warms up
        for name, times in seconds.items():
            taken = subject.seconds_a_step(name)
            if number:
                times.append(taken)
    rows = {
        name: {"seconds": statistics.median(times), "kept_mib": subject.kept_mib(name)}
        for name, times in seconds.items()
    }
    report(rows, options.json)


class Repeated:
    """The same batches in every epoch."""

    def __init__(self, batches: list[Batch]):
        self.batches = batches
        self.num_batches = len(batches)

    def __call__(self, *, epoch: int, start_batch: int, strong: bool) -> Iterator[Batch]:  # noqa: ARG002
        """Yields them from ``start_batch`` on."""
        return iter(self.batches[start_batch:])


class Subject:
    """A calibrated network, its teacher, and batches of noise with boxes."""

    def __init__(self, size: int, batch: int, steps: int):
        self.size = size
        overrides = ["device=cpu", "model=yolov6n", f"model.image_size={size}"]
        overrides += [f"qat_distill.batch_size={batch}"]
        overrides += [f"qat_distill.schedule.nominal_batch={batch}"]
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            run = read_run(compose("config", overrides=overrides), overrides)
        configs = {step.name: step.config for step in run.pipeline.steps}
        settings = configs["qat_distill"]
        assert isinstance(settings, QatDistillConfig)
        self.settings = settings
        shape = architecture(configs["train_repopt"].model, num_classes=NUM_CLASSES)
        network = build_detector(shape, "repopt", seed=0)
        self.batches = [_batch(number, batch, size) for number in range(steps)]
        images = self.batches[0].images.float() / 255
        with torch.no_grad():
            for _ in range(3):  # statistics that fit, or outputs would explode
                network.predict(images)
        self.network = fold_batch_norm(network.eval())
        self.scales = _scales(self.network, images)
        self.groups = concat_groups(self.network, images[:1])

    def seconds_a_step(self, ranges: str) -> float:
        """Trains for the steps of one turn."""
        settings = self.settings
        student = self._student(ranges)
        assert isinstance(settings.loss, Yolov6Loss)
        numbers = replace(recipe(settings), epochs=1)
        lessons = distillation_loss(self.network, settings.distillation, epochs=1)
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            train(
                student,
                Repeated(self.batches),
                numbers,
                Objective(
                    loss=detection_loss(settings.loss),
                    extra_loss=lessons,
                    gradient_masks=None,
                ),
                input_of((self.size, self.size)),
                device=torch.device("cpu"),
                processes=SingleProcess(),
                save_every=10_000,
                progress_folder=Path(folder),
                observers=Observers(
                    validate=None, log=NoLog(), progress=Silent(), description="qat"
                ),
            )
            return (time.process_time() - start) / len(self.batches)

    def kept_mib(self, ranges: str) -> float:
        """What autograd keeps of one batch, parameters left out."""
        student = self._student(ranges).train()
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if not isinstance(tensor, torch.nn.Parameter):
                storage = tensor.untyped_storage()
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        images = self.batches[0].images.float() / 255
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            student.predict(images.contiguous(memory_format=torch.channels_last))
        return sum(kept.values()) / 2**20

    def _student(self, ranges: str) -> Detector:
        student = quantize_to_train(
            self.network, self.scales, None, rule=RULES[ranges], groups=self.groups
        )
        return student.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _batch(seed: int, num_images: int, size: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(num_images, 5, 2, generator=generator) * size / 2
    extent = (0.1 + 0.4 * torch.rand(num_images, 5, 2, generator=generator)) * size
    return Batch(
        images=torch.randint(
            0, 256, (num_images, 3, size, size), generator=generator, dtype=torch.uint8
        ),
        boxes=torch.cat([low, low + extent], dim=-1),
        labels=torch.randint(0, NUM_CLASSES, (num_images, 5), generator=generator),
        image_ids=torch.arange(num_images),
    )


def _scales(network: Detector, images: torch.Tensor) -> ScaleCache:
    operations = find_operations(network, images[:1])
    statistics_ = collect(network, operations, [images], progress=Silent())
    amax = solve(statistics_, "max", progress=Silent(), number_format=INT8)
    return build_scale_cache(
        unify(amax, concat_groups(network, images[:1])),
        weight_scales(network, operations, "max", progress=Silent(), number_format=INT8),
        method="max",
        weights_digest="",
        data_digest="",
        preprocessing={},
        number_format=INT8,
    )


def report(rows: Mapping[str, Mapping[str, float]], path: Path | None) -> None:
    """Prints the table and writes the figures."""
    fixed = rows["fixed"]["seconds"]
    print(f"{torch.get_num_threads()} threads")
    print("{:<9}{:>10}{:>9}{:>12}".format("ranges", "s a step", "ratio", "kept MiB"))
    for name, row in rows.items():
        seconds, kept = row["seconds"], row["kept_mib"]
        print(f"{name:<9}{seconds:>10.3f}{seconds / fixed:>9.3f}{kept:>12.0f}")
    if path is not None:
        path.write_text(json.dumps({"rows": rows}, indent=2))


if __name__ == "__main__":
    main()
