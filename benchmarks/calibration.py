"""Times calibration beside NVIDIA's toolkit, and measures what each method costs in accuracy.

python benchmarks/calibration.py [--data ROOT] [--checkpoint FILE] [--json FILE] [--quick]

YOLOv6-N at 320 pixels on 128 training images: random weights on generated images unless named
otherwise. Both implementations see the same batches in the same process; ``network`` is the forward
pass alone. Times are processor time, over all threads (``OMP_NUM_THREADS=1`` for one). The
toolkit's entropy takes seconds a tensor: ``--quick`` times it on five. Its mse needs CUDA. With
``--checkpoint`` and ``--data``, every method is measured on the validation images with all
operations in INT8: mAP 50:95 minus that of the float network, and agreement with the float
network's own detections, both with 95 % intervals from resampled images.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from quantpipe.data.batches import float_batches, sample
from quantpipe.data.coco import read_coco
from quantpipe.data.coco_layout import find_coco_split
from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.shapes import generate_shapes
from quantpipe.detector.checkpoint_family import as_deployed, restore_detector
from quantpipe.detector.checkpoint_file import load_checkpoint
from quantpipe.detector.families.implementation import DetectorNetwork, raw_outputs
from quantpipe.detector.families.yolov6.architecture import Architecture
from quantpipe.detector.families.yolov6.family import input_of
from quantpipe.detector.families.yolov6.network import Detector, build_detector, fold_batch_norm
from quantpipe.evaluation.accuracy import matched_agreement
from quantpipe.evaluation.average_precision import MatchedDetections
from quantpipe.evaluation.coco_map import matched_detections
from quantpipe.evaluation.dataset import measure, objects_of
from quantpipe.evaluation.image_detections import ImageDetections
from quantpipe.evaluation.network import predictor
from quantpipe.evaluation.resampling import (
    Interval,
    bootstrap,
    bootstrap_difference,
)
from quantpipe.progress import Silent
from quantpipe.quantization.calibration.candidates import (
    candidate_ranges,
    chosen_ranges,
    range_degradations,
)
from quantpipe.quantization.calibration.collect import CalibrationMethod, Statistics, collect, solve
from quantpipe.quantization.calibration.histogram import Counts, Histogram
from quantpipe.quantization.calibration.pytorch_quantization import (
    make_calibrator,
    solve_calibrator,
)
from quantpipe.quantization.calibration.weights import weight_scales
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.operations import Operation, find_operations, watch_inputs
from quantpipe.quantization.output_error import OUTPUT_ERRORS
from quantpipe.quantization.scale_cache import build_scale_cache
from quantpipe.quantization.shared_ranges import concat_groups, unify
from quantpipe.quantization.simulation.network import quantize
from quantpipe.settings.data import Split

T = TypeVar("T")

PERCENTILES = (99.0, 99.5, 99.9, 99.95, 99.99, 99.995, 99.999, 100.0)
METHODS: Mapping[str, tuple[CalibrationMethod, float | None]] = {
    "percentile 99.99": ("percentile", 99.99),
    "mse": ("mse", None),
    "entropy": ("entropy", None),
}
# The toolkit takes seconds for each tensor, so few are timed with --quick.
NUM_QUICK = 5
NUM_RESAMPLES = 1000
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is calibrated: a network, its operations, the batches that it sees."""

    network: DetectorNetwork
    operations: tuple[Operation, ...]
    groups: tuple[frozenset[str], ...]
    batches: tuple[Tensor, ...]

    @property
    def first_readers(self) -> tuple[str, ...]:
        """One operation for each distinct tensor."""
        return tuple({o.reads: o.name for o in reversed(self.operations)}.values())[::-1]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds; ``reference`` is None where it cannot, of ``num_reference`` tensors where few."""

    what: str
    ours: float
    reference: float | None
    num_reference: int


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """What one method costs on images that no range was made from."""

    method: str
    map_difference: Interval
    agreement: Interval


def main() -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a COCO data set (default: generated images)")
    parser.add_argument("--checkpoint", type=Path, help="a trained network (default: random)")
    parser.add_argument("--size", type=int, default=320, help="pixels (default: 320)")
    parser.add_argument("--images", type=int, default=128, help="to calibrate on (default: 128)")
    parser.add_argument("--batch", type=int, default=32, help="images (default: 32)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="the toolkit's entropy on 5 tensors")
    options = parser.parse_args()
    if options.checkpoint is not None and options.data is None:
        parser.error("--checkpoint needs --data, the images that it was trained for")
    with tempfile.TemporaryDirectory() as folder:
        root = options.data or generated(Path(folder), options.images, options.size)
        train, val = opened(root, "train"), opened(root, "val")
        subject = made_subject(options, train)
        figures = timed(subject, quick=options.quick)
        if options.checkpoint is not None:
            figures["accuracy"] = measured(subject, val, options)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2))


def generated(folder: Path, num_images: int, image_size: int) -> Path:
    """Generated images to calibrate on."""
    generate_shapes(
        folder,
        num_train=num_images,
        num_val=1,
        image_size=image_size,
        num_classes=4,
        difficulty=0.4,
        seed=SEED,
        progress=Silent(),
    )
    return folder


def opened(root: Path, split: Split) -> DetectionDataset:
    """One split of a COCO data set."""
    images, annotations = find_coco_split(root, split)
    return read_coco(images, annotations, max_bad_images=0, strict=False)


def made_subject(options: argparse.Namespace, train: DetectionDataset) -> Subject:
    """The network of the checkpoint, or a random one whose statistics fit the images."""
    chosen = sample(len(train.images), options.images, SEED)
    batches = tuple(
        float_batches(
            train,
            chosen,
            specification=input_of((options.size, options.size)),
            batch_size=options.batch,
            device="cpu",
        )
    )
    network: DetectorNetwork
    if options.checkpoint is None:
        network = random_network(len(train.class_names), batches[0])
    else:
        network = restore_detector(as_deployed(load_checkpoint(options.checkpoint)))
    network.eval().requires_grad_(False)
    example = batches[0][:1]
    return Subject(
        network=network,
        operations=find_operations(network, example),
        groups=concat_groups(network, example),
        batches=batches,
    )


def random_network(num_classes: int, images: Tensor) -> Detector:
    """YOLOv6-N; without BatchNorm's statistics of real activations all deep tensors would be 0."""
    shape = Architecture(
        name="yolov6n",
        depth=0.33,
        width=0.25,
        num_classes=num_classes,
        backbone_channels=(64, 128, 256, 512, 1024),
        backbone_repeats=(1, 6, 12, 18, 6),
        neck_channels=(256, 128, 128, 256, 256, 512),
        neck_repeats=(12, 12, 12, 12),
    )
    network = build_detector(shape, "repopt", seed=SEED)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average of what it sees
    with torch.no_grad():
        network.train()(images)
    return fold_batch_norm(network)


def seconds(work: Callable[[], T]) -> tuple[float, T]:
    """Processor time, which other work on the machine does not lengthen, and the result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def timed(subject: Subject, *, quick: bool) -> dict[str, Any]:
    """Times both implementations in turn and compares what they find."""
    forward, _ = seconds(lambda: run_network(subject))
    ours_seconds, statistics = seconds(lambda: counted(subject))
    reference_seconds, calibrators = seconds(lambda: reference_counted(subject))
    num_tensors = len(subject.first_readers)
    rows = [
        Timing(what="network", ours=forward, reference=None, num_reference=0),
        Timing(
            what="collect",
            ours=ours_seconds,
            reference=reference_seconds,
            num_reference=num_tensors,
        ),
    ]
    differences = {}
    for label, (method, percentile) in METHODS.items():
        row, worst = solved(subject, statistics, calibrators, method, percentile, quick=quick)
        rows.append(row)
        differences[label] = worst
    sweep, _ = seconds(lambda: [solve_all(statistics, "percentile", p) for p in PERCENTILES])
    auto, _ = seconds(lambda: auto_ranges(subject, statistics))
    rows.append(Timing(what="8 percentiles", ours=sweep, reference=None, num_reference=0))
    rows.append(Timing(what="auto", ours=auto, reference=None, num_reference=0))
    bins = compared_bins(subject, statistics, calibrators)
    report_timings(rows, bins, differences, num_tensors, len(subject.batches))
    return {
        "threads": torch.get_num_threads(),
        "num_tensors": num_tensors,
        "seconds": [asdict(row) for row in rows],
        "bins": bins,
        "largest_range_difference_in_bins": differences,
    }


def run_network(subject: Subject) -> None:
    """Every batch once, nothing watched."""
    with torch.no_grad():
        for images in subject.batches:
            subject.network(images)


def counted(subject: Subject) -> Statistics:
    """Our statistics."""
    return collect(subject.network, subject.operations, subject.batches, progress=Silent())


def reference_counted(subject: Subject) -> dict[str, Any]:
    """The toolkit's statistics, one calibrator for each distinct tensor."""
    calibrators = {name: make_calibrator("entropy", INT8) for name in subject.first_readers}

    def observe(name: str, values: Tensor) -> None:
        # The toolkit divides by the maximum of what it sees first.
        if name in calibrators and bool(values.any()):
            calibrators[name].collect(values)

    with watch_inputs(subject.network, observe):
        run_network(subject)
    return calibrators


def solve_all(
    statistics: Statistics, method: CalibrationMethod, percentile: float | None
) -> dict[str, float]:
    """Our ranges."""
    return solve(statistics, method, percentile=percentile, progress=Silent(), number_format=INT8)


def solved(
    subject: Subject,
    statistics: Statistics,
    calibrators: Mapping[str, Any],
    method: CalibrationMethod,
    percentile: float | None,
    *,
    quick: bool,
) -> tuple[Timing, float | None]:
    """Times one method of both, and returns the largest difference of a range, in bins."""
    what = f"solve {method}" + (f" {percentile:g}" if percentile else "")
    ours_seconds, ours = seconds(lambda: solve_all(statistics, method, percentile))
    if method == "mse":
        return Timing(what=what, ours=ours_seconds, reference=None, num_reference=0), None
    names = subject.first_readers
    if method == "entropy" and quick:
        names = names[:: -(-len(names) // NUM_QUICK)]

    reference_seconds, theirs = seconds(
        lambda: {n: solve_calibrator(calibrators[n], method, percentile) for n in names}
    )
    worst = max(abs(ours[n] - theirs[n]) / statistics.histograms[n].width for n in names)
    timing = Timing(
        what=what, ours=ours_seconds, reference=reference_seconds, num_reference=len(names)
    )
    return timing, worst


def compared_bins(
    subject: Subject, statistics: Statistics, calibrators: Mapping[str, Any]
) -> dict[str, float]:
    """How the counts differ: the largest difference of a bin, and the values that moved."""
    shares, largest, cumulative = [], 0, 0.0
    for name in subject.first_readers:
        ours, theirs = aligned(statistics.histograms[name], calibrators[name])
        difference = np.abs(ours - theirs)
        largest = max(largest, int(difference.max()))
        shares.append(float(difference.max() / ours.sum()))
        gap = np.abs(np.cumsum(ours) - np.cumsum(theirs)).max()
        cumulative = max(cumulative, float(gap / ours.sum()))
    return {
        "largest_count": largest,
        "largest_share_of_values": max(shares),
        "largest_cumulative_share": cumulative,
    }


def aligned(histogram: Histogram, calibrator: Any) -> tuple[Counts, Counts]:
    """Both counts over the same number of bins."""
    theirs = np.asarray(calibrator._calib_hist).astype(np.int64)
    size = max(len(histogram.counts), len(theirs))
    ours = np.pad(histogram.counts, (0, size - len(histogram.counts)))
    return ours, np.pad(theirs, (0, size - len(theirs)))


def auto_ranges(subject: Subject, statistics: Statistics) -> dict[str, float]:
    """The least degrading candidates."""
    candidates = candidate_ranges(statistics, subject.groups, number_format=INT8)
    degradations = range_degradations(
        subject.network,
        subject.operations,
        subject.groups,
        candidates,
        subject.batches,
        outputs=raw_outputs,
        error=OUTPUT_ERRORS["detections"],
        seed=SEED,
        progress=Silent(),
        number_format=INT8,
    )
    return chosen_ranges(candidates, degradations.least())


def all_ranges(subject: Subject) -> dict[str, dict[str, float]]:
    """Every method's ranges, one for each concat."""
    statistics = counted(subject)
    candidates = candidate_ranges(statistics, subject.groups, number_format=INT8)
    auto = unify(auto_ranges(subject, statistics), subject.groups)
    return {**candidates, "auto": auto}


def measured(
    subject: Subject, val: DetectionDataset, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """The accuracy of every method on the validation images."""
    weights = weight_scales(
        subject.network, subject.operations, "max", progress=Silent(), number_format=INT8
    )
    reference = detected(subject.network, val, options)
    base = matched_detections(reference, objects_of(val))
    rows = []
    for label, amax in all_ranges(subject).items():
        scales = build_scale_cache(
            amax,
            weights,
            method=label,
            weights_digest="",
            data_digest="",
            preprocessing={"image_size": options.size},
            number_format=INT8,
        )
        found = detected(quantize(subject.network, scales), val, options)
        rows.append(compared(label, base, reference, found, val))
        report_accuracy(rows[-1:], base, heading=len(rows) == 1)
    return [asdict(row) for row in rows]


def detected(
    network: nn.Module, dataset: DetectionDataset, options: argparse.Namespace
) -> Sequence[ImageDetections]:
    """The detections of a network."""
    return measure(
        predictor(network, "cpu"),
        dataset,
        specification=input_of((options.size, options.size)),
        batch_size=16,
        progress=Silent(),
        description="measure",
    ).detections


def compared(
    label: str,
    base: MatchedDetections,
    reference: Sequence[ImageDetections],
    found: Sequence[ImageDetections],
    dataset: DetectionDataset,
) -> Accuracy:
    """Against float, with intervals."""
    own = matched_detections(found, objects_of(dataset))
    agreeing = matched_agreement(reference, found, dataset.class_names)
    return Accuracy(
        method=label,
        map_difference=bootstrap_difference(base, own, count=NUM_RESAMPLES, seed=SEED),
        agreement=bootstrap(agreeing, count=NUM_RESAMPLES, seed=SEED),
    )


def report_timings(
    rows: Sequence[Timing],
    bins: Mapping[str, float],
    differences: Mapping[str, float | None],
    num_tensors: int,
    num_batches: int,
) -> None:
    """Prints the seconds of both, and how their results differ."""
    print(f"{torch.get_num_threads()} threads, {num_tensors} tensors, {num_batches} batches")
    print(f"{'processor seconds':<26}{'quantpipe':>12}{'toolkit':>12}")
    for row in rows:
        reference = "-" if row.reference is None else f"{row.reference:.3f}"
        few = f"  ({row.num_reference} tensors)" if 0 < row.num_reference < num_tensors else ""
        print(f"{row.what:<26}{row.ours:>12.3f}{reference:>12}{few}")
    print(
        f"bins: largest difference {bins['largest_count']} values, "
        f"{bins['largest_share_of_values']:.2e} of a tensor's; "
        f"cumulative {bins['largest_cumulative_share']:.2e}"
    )
    for label, worst in differences.items():
        if worst is not None:
            print(f"range by {label}: at most {worst:.2f} bins apart")


def report_accuracy(rows: Sequence[Accuracy], base: MatchedDetections, *, heading: bool) -> None:
    """Prints what each method costs."""
    if heading:
        print(f"float: mAP 50:95 {100 * base.average_precision().map:.1f}; all operations in INT8:")
        print(f"{'ranges':<20}{'mAP points (95 %)':>26}{'agreement (95 %)':>28}")
    for row in rows:
        change, agree = row.map_difference, row.agreement
        points = f"{100 * change.value:+.2f} [{100 * change.low:+.2f}, {100 * change.high:+.2f}]"
        share = f"{agree.value:.4f} [{agree.low:.4f}, {agree.high:.4f}]"
        print(f"{row.method:<20}{points:>26}{share:>28}")


if __name__ == "__main__":
    main()
