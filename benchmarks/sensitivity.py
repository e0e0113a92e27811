"""Compares ways to rank operations: cost, reliability, and what plans made from them are worth.

python benchmarks/sensitivity.py --data ROOT --checkpoint FILE [FILE ...] [--json FILE] [--quick]

Each checkpoint is folded and calibrated (max) on training images, and ranked on training images.
Plans that keep the most sensitive operations in float are then run, simulated in PyTorch, on the
validation images, which neither saw. ``agreement`` is the mAP of a network against the confident
detections of the float network. Intervals hold 95 % of resamples of the images, paired.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray

from quantpipe.cli.composition import config_folder
from quantpipe.cli.config import read_run
from quantpipe.data.batches import float_batches, num_batches, sample
from quantpipe.data.coco import read_coco
from quantpipe.data.coco_layout import find_coco_split
from quantpipe.data.dataset import DetectionDataset
from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.checkpoint_family import as_deployed, restore_detector
from quantpipe.detector.checkpoint_file import load_checkpoint
from quantpipe.detector.families.implementation import DetectorNetwork
from quantpipe.detector.families.yolov6.loss import detection_loss
from quantpipe.detector.families.yolov6.loss_settings import Yolov6Loss
from quantpipe.evaluation.accuracy import matched_agreement
from quantpipe.evaluation.average_precision import MatchedDetections
from quantpipe.evaluation.dataset import measure
from quantpipe.evaluation.image_detections import ImageDetections
from quantpipe.evaluation.network import predictor
from quantpipe.evaluation.resampling import resamples
from quantpipe.process_group import SingleProcess
from quantpipe.progress import Silent
from quantpipe.quantization.calibration.collect import collect, solve
from quantpipe.quantization.calibration.weights import weight_scales
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.operations import Operation, find_operations
from quantpipe.quantization.scale_cache import ScaleCache, build_scale_cache
from quantpipe.quantization.sensitivity.degradation import (
    Counts,
    Degradation,
    Floats,
    reliability,
    spearman,
)
from quantpipe.quantization.sensitivity.ranking import Measured, RankingTask, rank_operations
from quantpipe.quantization.sensitivity.table import Direction, SensitivityMethod, SensitivityTable
from quantpipe.quantization.shared_ranges import concat_groups, unify
from quantpipe.quantization.simulation.network import only_quantized, quantize
from quantpipe.stages.sensitivity.config import SensitivityConfig
from quantpipe.stages.sensitivity.methods import RankingBatch, ranking_batches, ranking_method

CPU = "cpu"
BATCH = 8
NUM_RESAMPLES = 1000
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A way to rank, and on how many images: fewer where each costs more."""

    method: SensitivityMethod
    direction: Direction
    num_images: int
    output_error: Literal["detections", "noise"] = "detections"

    @property
    def name(self) -> str:
        """For the tables."""
        error = ", noise" if self.output_error == "noise" else ""
        return f"{self.method} ({self.direction}{error})"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is done."""

    contenders: tuple[Contender, ...]
    num_calibration: int
    num_unseen: int | None
    kept: tuple[int, ...]
    num_random: int


FULL = Size(
    contenders=(
        Contender(method="gradient", direction="only", num_images=128),
        Contender(method="gradient", direction="only", num_images=128, output_error="noise"),
        Contender(method="gradient", direction="all_but", num_images=128),
        Contender(method="output", direction="only", num_images=16),
        Contender(method="output", direction="all_but", num_images=16),
        Contender(method="loss", direction="only", num_images=32),
        Contender(method="loss", direction="all_but", num_images=32),
        Contender(method="map", direction="only", num_images=32),
    ),
    num_calibration=128,
    num_unseen=None,
    kept=(4, 8, 16),
    num_random=5,
)
QUICK = Size(
    contenders=(
        Contender(method="gradient", direction="only", num_images=16),
        Contender(method="output", direction="only", num_images=4),
    ),
    num_calibration=16,
    num_unseen=24,
    kept=(8,),
    num_random=2,
)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A calibrated network, the images to rank on, and the unseen ones."""

    checkpoint: Checkpoint
    network: DetectorNetwork
    operations: tuple[Operation, ...]
    scales: ScaleCache
    seen: DetectionDataset
    unseen: DetectionDataset
    settings: SensitivityConfig

    @property
    def names(self) -> list[str]:
        """The operations, in execution order."""
        return [operation.name for operation in self.operations]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A difference on the unseen images, and the middle 95 % of its resamples."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        told = "" if self.low > 0 or self.high < 0 else " (cannot be told from 0)"
        return f"{100 * self.value:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]{told}"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a COCO data set")
    parser.add_argument("--checkpoint", type=Path, nargs="+", required=True)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="two methods, few images")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    print(f"{torch.get_num_threads()} threads, {torch.__version__}")
    figures = [compare(path, options.data, size) for path in options.checkpoint]
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2))


def compare(path: Path, data: Path, size: Size) -> dict[str, Any]:
    """Ranks, plans and evaluates one checkpoint."""
    model = calibrated(path, data, size)
    form = model.checkpoint.settings["form"]
    print(f"\n{path}: {form}, {model.checkpoint.input.shown} px")
    judge = Judge(model)
    baselines = print_baselines(judge)
    rankings = {
        contender: ranking(model, contender, judge.seconds * len(model.names))
        for contender in size.contenders
    }
    return {
        "checkpoint": path.name,
        "form": form,
        **baselines,
        "rankings": print_rankings(rankings),
        "rank_correlation": print_correlations(model, rankings),
        "plans": print_plans(judge, rankings, size),
        "seconds": judge.total_seconds(),
    }


def calibrated(path: Path, data: Path, size: Size) -> Model:
    """Folds and calibrates a checkpoint as the ``calibrate`` stage does with method=max."""
    checkpoint = load_checkpoint(path)
    network = restore_detector(as_deployed(checkpoint)).eval()
    specification = checkpoint.input
    example = torch.zeros(1, 3, *specification.size)
    operations = find_operations(network, example)
    train, unseen = open_split(data, "train"), open_split(data, "val")
    chosen = sample(len(train.images), size.num_calibration, SEED)
    batches = float_batches(
        train, chosen, specification=specification, batch_size=BATCH, device=CPU
    )
    statistics = collect(network, operations, batches, progress=Silent())
    amax = solve(statistics, "max", progress=Silent(), number_format=INT8)
    scales = build_scale_cache(
        unify(amax, concat_groups(network, example)),
        weight_scales(network, operations, "max", progress=Silent(), number_format=INT8),
        method="max",
        weights_digest=checkpoint.weights_digest,
        data_digest=train.subset(chosen).fingerprint(),
        preprocessing=specification.as_scalars(),
        number_format=INT8,
    )
    return Model(
        checkpoint=checkpoint,
        network=network,
        operations=operations,
        scales=scales,
        seen=train,
        unseen=unseen.subset(range(min(size.num_unseen or 10**9, len(unseen.images)))),
        settings=shipped_settings(),
    )


def open_split(root: Path, split: Literal["train", "val"]) -> DetectionDataset:
    """The images of one split."""
    images, annotations = find_coco_split(root, split)
    return read_coco(images, annotations, max_bad_images=0, strict=False)


def shipped_settings() -> SensitivityConfig:
    """The stage as it is configured by default."""
    overrides = ["device=cpu", "pipelines=partial_quant", "model=yolov6n"]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        run = read_run(compose("config", overrides=overrides), overrides)
    config = next(s.config for s in run.pipeline.steps if s.name == "sensitivity")
    assert isinstance(config, SensitivityConfig)
    return config


class Judge:
    """Runs plans on the unseen images; a plan that came before is not run again."""

    def __init__(self, model: Model):
        self._start = time.perf_counter()
        self._model = model
        self._quantized = quantize(model.network, model.scales).requires_grad_(False)
        self._judged: dict[frozenset[str], tuple[float, MatchedDetections]] = {}
        self.float_map, self._reference = self._run(model.names)
        start = time.perf_counter()
        self.judge([])
        self.seconds = time.perf_counter() - start
        self._drawn = resamples(len(model.unseen.images), NUM_RESAMPLES, seed=SEED)

    def judge(self, in_float: Sequence[str]) -> tuple[float, MatchedDetections]:
        """Returns mAP 50:95 and agreement with these operations in float."""
        key = frozenset(in_float)
        if key not in self._judged:
            value, found = self._run(in_float)
            agreed = matched_agreement(self._reference, found, self._model.unseen.class_names)
            self._judged[key] = value, agreed
        return self._judged[key]

    def agreement(self, in_float: Sequence[str]) -> float:
        """Against the float network; 1 is the best."""
        return self.judge(in_float)[1].average_precision().map

    def gain(self, in_float: Sequence[str], others: Sequence[Sequence[str]]) -> Difference:
        """Agreement of a plan minus the mean of other plans'."""
        drawn = self.judge(in_float)[1].resampled(self._drawn)
        others_drawn = [self.judge(plan)[1].resampled(self._drawn) for plan in others]
        low, high = np.quantile(drawn - np.mean(others_drawn, axis=0), [0.025, 0.975])
        value = self.agreement(in_float) - float(np.mean([self.agreement(p) for p in others]))
        return Difference(value=value, low=float(low), high=float(high))

    def total_seconds(self) -> float:
        """Since the beginning."""
        return time.perf_counter() - self._start

    def _run(self, in_float: Sequence[str]) -> tuple[float, list[ImageDetections]]:
        kept = set(in_float)
        with only_quantized(self._quantized, [n for n in self._model.names if n not in kept]):
            found = measure(
                predictor(self._quantized, CPU),
                self._model.unseen,
                specification=self._model.checkpoint.input,
                batch_size=BATCH,
                progress=Silent(),
                description="plan",
            )
        return found.result.map, found.detections


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A ranking and what it took."""

    table: SensitivityTable
    degradation: Degradation
    cheaper: float
    cheaper_as_shipped: float

    @property
    def order(self) -> list[str]:
        """From the most sensitive to the least."""
        return [row.name for row in reversed(self.table.rows)]


def ranking(model: Model, contender: Contender, seconds_by_evaluation: float) -> Ranked:
    """Ranks the operations of a model; prints a line, for some take minutes."""
    chosen = model.seen.subset(sample(len(model.seen.images), contender.num_images, SEED + 1))
    settings = model.settings
    assert isinstance(settings.loss, Yolov6Loss)
    method = ranking_method(
        contender.method,
        dataset=chosen,
        loss=detection_loss(settings.loss),
        output_error=contender.output_error,
        num_projections=settings.num_projections,
        device=CPU,
    )
    with tempfile.TemporaryDirectory() as folder:
        task: RankingTask[RankingBatch] = RankingTask(
            network=model.network,
            scales=model.scales,
            operations=model.operations,
            direction=contender.direction,
            batches=ranking_batches(chosen, model.checkpoint.input, batch_size=BATCH, device=CPU),
            num_batches=num_batches(len(chosen.images), BATCH),
            batch_size=BATCH,
            processes=SingleProcess(),
            seed=SEED,
            progress=Silent(),
            progress_folder=Path(folder),
        )
        measured = method(task)
    repeat: Callable[[RankingTask[RankingBatch]], Measured] = lambda _: measured  # noqa: E731
    table = rank_operations(contender.method, repeat, task)
    per_image = measured.seconds / len(chosen.images)
    by_evaluation = seconds_by_evaluation / len(model.unseen.images)
    return Ranked(
        table=table,
        degradation=measured.degradation,
        cheaper=by_evaluation / per_image,
        cheaper_as_shipped=seconds_by_evaluation / (per_image * settings.num_images),
    )


@dataclass(frozen=True, kw_only=True)
class Some:
    """A degradation on the first images only."""

    degradation: Degradation
    num_images: int

    def resampled(self, multiplicities: Counts) -> Floats:
        """As the whole degradation with the other images counted zero times."""
        rest = self.degradation.num_images - self.num_images
        return self.degradation.resampled(np.pad(multiplicities, ((0, 0), (0, rest))))

    def standard_errors(self, *, seed: int) -> Floats | None:  # noqa: ARG002 - the protocol's
        """None: the errors of part of the images are not looked at."""
        return None


def print_baselines(judge: Judge) -> dict[str, float]:
    """What there is to win."""
    int8_map, int8 = judge.judge([])[0], judge.agreement([])
    print(
        f"  float mAP {100 * judge.float_map:.1f}; all INT8 mAP {100 * int8_map:.1f}, agreement "
        f"{100 * int8:.1f}; one evaluation {judge.seconds:.1f} s"
    )
    return {
        "float_map": judge.float_map,
        "int8_map": int8_map,
        "int8_agreement": int8,
        "evaluation_seconds": judge.seconds,
    }


def print_rankings(rankings: dict[Contender, Ranked]) -> list[dict[str, Any]]:
    """Cost and reliability, also by the number of images."""
    print(
        f"  {'method':<26}{'images':>7}{'seconds':>9}{'passes':>8}{'cheaper':>9}{'shipped':>9}"
        "  reliability by images"
    )
    figures = []
    for contender, ranked in rankings.items():
        table = ranked.table
        counts = [n for n in (8, 16, 32, 64, 128) if n <= contender.num_images]
        by_images = {
            n: reliability(Some(degradation=ranked.degradation, num_images=n), seed=SEED) or 0.0
            for n in counts
        }
        text = "  ".join(f"{n}: {value:.2f}" for n, value in by_images.items())
        print(
            f"  {contender.name:<26}{table.num_images:>7}{table.seconds or 0:>9.1f}"
            f"{table.passes:>8.1f}{ranked.cheaper:>8.1f}x{ranked.cheaper_as_shipped:>8.1f}x  {text}"
        )
        figures.append(
            {
                **asdict(contender),
                "seconds": table.seconds,
                "passes": table.passes,
                "cheaper_on_as_many_images": ranked.cheaper,
                "cheaper_as_shipped": ranked.cheaper_as_shipped,
                "reliability": by_images,
                "worst": ranked.order[:8],
            }
        )
    print(
        "  cheaper: than one evaluation for every operation on as many images; shipped: with the\n"
        "  default number of images, than one evaluation for every operation on all unseen images"
    )
    return figures


def print_correlations(model: Model, rankings: dict[Contender, Ranked]) -> dict[str, list[float]]:
    """Spearman's correlation of every ranking with every other."""
    places: list[NDArray[np.float64]] = [
        np.array([ranked.order.index(name) for name in model.names], dtype=np.float64)
        for ranked in rankings.values()
    ]
    print("  rank correlation, in the order above")
    found = {}
    for contender, one in zip(rankings, places, strict=True):
        found[contender.name] = [spearman(one, other) for other in places]
        row = "".join(f"{value:>7.2f}" for value in found[contender.name])
        print(f"  {contender.name:<26}{row}")
    return found


def print_plans(
    judge: Judge, rankings: dict[Contender, Ranked], size: Size
) -> list[dict[str, Any]]:
    """What keeping the most sensitive operations in float is worth on the unseen images."""
    figures = []
    names = next(iter(rankings.values())).order
    disagreement = 1 - judge.agreement([])
    for kept in size.kept:
        rng = np.random.default_rng(SEED)
        random = [rng.permutation(sorted(names))[:kept].tolist() for _ in range(size.num_random)]
        agreed = [100 * judge.agreement(plan) for plan in random]
        print(
            f"  {kept} in float, {len(random)} random plans: agreement {min(agreed):.1f} to "
            f"{max(agreed):.1f}, mAP {100 * np.mean([judge.judge(p)[0] for p in random]):.1f}"
        )
        titles = ("mAP", "agreement", "removed", "gain on all INT8", "gain on random")
        print("    {:<26}{:>6}{:>11}{:>9}  {:<45}{}".format("method", *titles))
        for contender, ranked in rankings.items():
            plan = ranked.order[:kept]
            accuracy, agreement = judge.judge(plan)[0], judge.agreement(plan)
            removed = (agreement - (1 - disagreement)) / disagreement
            on_int8, on_random = judge.gain(plan, [[]]), judge.gain(plan, random)
            print(
                f"    {contender.name:<26}{100 * accuracy:>6.1f}{100 * agreement:>11.1f}"
                f"{removed:>9.0%}  {on_int8!s:<45}{on_random}"
            )
            figures.append(
                {
                    "kept": kept,
                    "method": contender.name,
                    "map": accuracy,
                    "agreement": agreement,
                    "disagreement_removed": removed,
                    "gain_on_int8": asdict(on_int8),
                    "gain_on_random": asdict(on_random),
                    "random_agreement": [value / 100 for value in agreed],
                }
            )
    return figures


if __name__ == "__main__":
    main()
