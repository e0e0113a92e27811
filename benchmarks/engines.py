"""What engines gain: latency, throughput and the share of the processor's INT8 peak, side by side.

python benchmarks/engines.py [--json FILE] [--quick] [--batches 1 32] [--runs N] [--large-runs N]

YOLOv6-N at 320 px and S at 640, batches of 1 and 32: fp32, bf16 and our INT8 in OpenVINO,
fp32 and our INT8 in ONNX Runtime, and the same float graph quantized by NNCF and by ONNX Runtime
with their defaults where they are installed. Weights are random: they change no latency. All run in
turn, after a pause, so that neither a busy moment nor what ran before favors any.

Images per second are those of one batch after another, or in OpenVINO with the best number of
streams where that is more. The share of the peak is the INT8
multiply-adds per second at that rate against those of the fastest of several large INT8
convolutions in OpenVINO on this machine. ``--export`` times the export of S alone and tells the
most memory it held.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import torch
from numpy.typing import NDArray

from int8_peak import fastest_convolution, multiply_adds
from other_tools import quantize_with_nncf, quantize_with_onnxruntime
from quantpipe.detector.families.yolov6.architecture import Architecture
from quantpipe.detector.families.yolov6.network import Detector, build_detector, fold_batch_norm
from quantpipe.engines.benchmark import Latency, measure_latency, measure_throughput
from quantpipe.engines.contract import BuildSettings, Engine
from quantpipe.engines.registry import build_engine, engine_spec, load_engine
from quantpipe.export.engine_graph import engine_graph
from quantpipe.export.onnx_graph import export_float, read_graph, write_graph
from quantpipe.progress import Silent
from quantpipe.quantization.calibration.collect import collect, solve
from quantpipe.quantization.calibration.weights import weight_scales
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.operations import find_operations
from quantpipe.quantization.scale_cache import ScaleCache, build_scale_cache
from quantpipe.quantization.shared_ranges import concat_groups, unify
from quantpipe.schema import build

SIZES = {"N": (0.25, 320), "S": (0.5, 640)}
BATCHES = (1, 32)
STREAMS = (1, 2)
OPSET = 20
NUM_WARMUP = 10
PAUSE_SECONDS = 0.05
Images = NDArray[np.float32]
Run = Callable[[Images], object]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine of one network at one batch size."""

    network: str
    image_size: int
    batch_size: int
    engine: str
    latency: Latency
    images_per_second: float | None
    num_streams: int | None
    share_of_peak: float | None


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="N only, few runs: a minute")
    parser.add_argument("--runs", type=int, default=100, help="counted runs at batch 1")
    parser.add_argument("--large-runs", type=int, default=100, help="counted runs at batch 32")
    parser.add_argument("--batches", type=int, nargs="+", choices=BATCHES, default=BATCHES)
    parser.add_argument("--export", action="store_true", help="time the export of S only")
    arguments = parser.parse_args()
    if arguments.export:
        report_export(arguments.json)
        return
    runs = (10, 3) if arguments.quick else (arguments.runs, arguments.large_runs)
    counts = {n: c for n, c in zip(BATCHES, runs, strict=True) if n in arguments.batches}
    peak = fastest_convolution()
    print(f"INT8 peak: {peak / 1e9:.0f} G multiply-adds/s, the fastest large convolution")
    rows: list[Row] = []
    for name in ("N",) if arguments.quick else SIZES:
        with tempfile.TemporaryDirectory() as folder:
            rows.extend(measured(name, counts, peak, Path(folder)))
        report([row for row in rows if row.network == name])
    if arguments.json is not None:
        figures = {"peak": peak, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(figures, indent=2))


def measured(name: str, runs: Mapping[int, int], peak: float, folder: Path) -> Iterator[Row]:
    """Yields the rows of one network."""
    graphs = Graphs(name, folder)
    macs = multiply_adds(read_graph(graphs.float_path), graphs.image_size)
    for batch, num_runs in runs.items():
        rng = np.random.default_rng(0)
        images = rng.random((batch, 3, graphs.image_size, graphs.image_size), dtype=np.float32)
        engines = graphs.engines(batch)
        latencies = measure_latency(
            {engine: partial(run, images) for engine, run in engines.items()},
            num_warmup=NUM_WARMUP if batch == 1 else 1,
            num_runs=num_runs,
            progress=Silent(),
            pause=PAUSE_SECONDS,
        )
        rates = graphs.throughputs(batch, images, num_runs)
        for engine, latency in latencies.items():
            rate, streams = rates.get(engine, (None, None))
            alone = 1000 * batch / latency.p50
            best = max(rate or 0, alone)
            yield Row(
                network=name,
                image_size=graphs.image_size,
                batch_size=batch,
                engine=engine,
                latency=latency,
                images_per_second=best,
                num_streams=None if best == alone else streams,
                share_of_peak=macs * best / peak if "INT8" in engine else None,
            )


class Graphs:
    """A network as the graphs that each engine takes, and the engines."""

    def __init__(self, name: str, folder: Path):
        width, self.image_size = SIZES[name]
        self._folder = folder
        detector = network(width)
        self._scales = random_ranges(detector, self.image_size)
        self.float_path = folder / "float.onnx"
        export_float(
            detector,
            self.float_path,
            image_size=(self.image_size, self.image_size),
            batch="dynamic",
            opset=OPSET,
        )
        for target in ("openvino", "onnxruntime"):
            write_graph(self._ours(target), self._quantized(target))

    def engines(self, batch: int) -> dict[str, Run]:
        """Every engine, as a function of a batch."""
        found: dict[str, Run] = {
            label: self._built(*made, batch, streams=0).run for label, made in self._own().items()
        }
        if importlib.util.find_spec("nncf") is not None:
            found["OpenVINO INT8 by NNCF"] = openvino_run(self._by_nncf(), batch, self.image_size)
        found["ONNX Runtime INT8 by its own"] = self._by_onnxruntime()
        return found

    def throughputs(
        self, batch: int, images: Images, num_runs: int
    ) -> dict[str, tuple[float, int]]:
        """Images per second of OpenVINO's engines with the best number of streams; that number."""
        labels = {label: made for label, made in self._own().items() if made[0] == "openvino"}
        queue = [images] * (8 if batch == 1 else 2)
        runs: dict[str, Callable[[], object]] = {}
        for label, made in labels.items():
            for streams in STREAMS:
                engine = self._built(*made, batch, streams=streams)
                runs[f"{label}/{streams}"] = partial(engine.run_all, queue)
        rates = measure_throughput(
            runs,
            num_images=batch * len(queue),
            num_runs=max(3, num_runs // len(queue)),
            progress=Silent(),
        )
        return {
            label: max((rates[f"{label}/{streams}"], streams) for streams in STREAMS)
            for label in labels
        }

    def _own(self) -> dict[str, tuple[str, Any, Path]]:
        return {
            "OpenVINO fp32": ("openvino", "fp32", self.float_path),
            "OpenVINO bf16": ("openvino", "half", self.float_path),
            "OpenVINO INT8": ("openvino", "int8", self._ours("openvino")),
            "ONNX Runtime fp32": ("onnxruntime", "fp32", self.float_path),
            "ONNX Runtime INT8": ("onnxruntime", "int8", self._ours("onnxruntime")),
        }

    def _ours(self, target: str) -> Path:
        return self._folder / f"{target}.onnx"

    def _quantized(self, target: str) -> onnx.ModelProto:
        return engine_graph(
            read_graph(self.float_path),
            self._scales,
            None,
            placement=engine_spec(target).placement,
            signed_input=False,
            half=False,
            simplified=True,
        )

    def _built(self, library: str, precision: Any, path: Path, batch: int, streams: int) -> Engine:
        engine = build(
            engine_spec(library).settings,
            {
                "name": library,
                "batch_sizes": [batch],
                "float_precision": "fp32",
                "mode": "throughput" if streams else "latency",
                "num_streams": streams,
                "num_threads": 0,
            },
            "engine",
        )
        size = (self.image_size, self.image_size)
        settings = BuildSettings(engine=engine, precision=precision, image_size=size)
        target = self._folder / "engine"
        build_engine(path, target, settings)
        return load_engine(library, target)

    def _calibration(self) -> Iterator[Images]:
        rng = np.random.default_rng(1)
        for _ in range(4):
            yield rng.random((1, 3, self.image_size, self.image_size), dtype=np.float32)

    def _by_nncf(self) -> Any:
        return quantize_with_nncf(self.float_path, self._calibration())

    def _by_onnxruntime(self) -> Run:
        import onnxruntime

        target = self._folder / "by_onnxruntime.onnx"
        if not target.exists():
            quantize_with_onnxruntime(self.float_path, target, self._calibration())
        session = onnxruntime.InferenceSession(target)
        name = session.get_inputs()[0].name
        return lambda images: session.run(None, {name: images})


def openvino_run(model: Any, batch: int, image_size: int) -> Run:
    """A model compiled as our engines are: for latency, with what stays float in fp32."""
    model.reshape([batch, 3, image_size, image_size])
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(model, "CPU", hints).create_infer_request()

    def run(images: Images) -> Images:
        request.infer([images], share_inputs=True)
        return np.array(request.get_output_tensor(0).data)

    return run


def network(width: float) -> Detector:
    """A network of random weights, BatchNorm folded."""
    architecture = Architecture(
        name="benchmark",
        depth=0.33,
        width=width,
        num_classes=80,
        backbone_channels=(64, 128, 256, 512, 1024),
        backbone_repeats=(1, 6, 12, 18, 6),
        neck_channels=(256, 128, 128, 256, 256, 512),
        neck_repeats=(12, 12, 12, 12),
    )
    return fold_batch_norm(build_detector(architecture, "repopt", seed=0)).eval()


def random_ranges(detector: Detector, image_size: int) -> ScaleCache:
    """The largest values on random images."""
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(2, 3, image_size, image_size, generator=generator)
    operations = find_operations(detector, images[:1])
    statistics = collect(detector, operations, [images], progress=Silent())
    amax = unify(
        solve(statistics, "max", progress=Silent(), number_format=INT8),
        concat_groups(detector, images[:1]),
    )
    return build_scale_cache(
        amax,
        weight_scales(detector, operations, "max", progress=Silent(), number_format=INT8),
        method="max",
        weights_digest="0" * 64,
        data_digest="0" * 64,
        preprocessing={"image_size": image_size},
        number_format=INT8,
    )


def report_export(path: Path | None) -> None:
    """Times the parts of the export of S at 640, and tells the most memory the process held."""
    width, image_size = SIZES["S"]
    detector = network(width)
    scales = random_ranges(detector, image_size)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "float.onnx"
        start = time.perf_counter()
        export_float(
            detector, file, image_size=(image_size, image_size), batch="dynamic", opset=OPSET
        )
        traced = time.perf_counter()
        graph = read_graph(file)
        read = time.perf_counter()
        for target in ("openvino", "onnxruntime", "tensorrt"):
            inserted = time.perf_counter()
            placement = engine_spec(target).placement
            engine_graph(
                graph,
                scales,
                None,
                placement=placement,
                signed_input=False,
                half=False,
                simplified=False,
            )
            print(f"Q/DQ for {target:<12}{time.perf_counter() - inserted:>8.2f} s")
        simplify_start = time.perf_counter()
        placement = engine_spec("openvino").placement
        engine_graph(
            graph,
            scales,
            None,
            placement=placement,
            signed_input=False,
            half=False,
            simplified=True,
        )
        whole = time.perf_counter() - simplify_start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {
        "trace": traced - start,
        "read": read - traced,
        "qdq_and_simplify": whole,
        "peak_mib": peak,
    }
    print(f"trace and write{figures['trace']:>12.2f} s")
    print(f"Q/DQ and simplify{whole:>9.2f} s")
    print(f"peak memory{peak:>16.0f} MiB")
    if path is not None:
        path.write_text(json.dumps(figures, indent=2))


def report(rows: list[Row]) -> None:
    """Prints one table for each batch size; ratios are of the medians."""
    for batch in sorted({row.batch_size for row in rows}):
        chosen = [row for row in rows if row.batch_size == batch]
        median = {row.engine: row.latency.p50 for row in chosen}
        print(f"\nYOLOv6-{chosen[0].network} at {chosen[0].image_size} px, batch {batch}")
        print(
            f"{'engine':<30}{'p50 ms':>9}{'p95':>9}{'p99':>9}{'least':>9}"
            f"{'x fp32':>8}{'x bf16':>8}{'images/s':>10}{'of peak':>9}"
        )
        for row in chosen:
            times, own = row.latency, median[row.engine]
            share = "" if row.share_of_peak is None else f"{100 * row.share_of_peak:.0f} %"
            print(
                f"{row.engine:<30}{times.p50:>9.2f}{times.p95:>9.2f}{times.p99:>9.2f}"
                f"{times.fastest:>9.2f}"
                f"{median['OpenVINO fp32'] / own:>8.2f}{median['OpenVINO bf16'] / own:>8.2f}"
                f"{row.images_per_second or 0:>10.1f}{share:>9}"
            )


if __name__ == "__main__":
    main()
