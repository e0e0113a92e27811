"""What ``evaluate`` compares: engines and models, opened behind one function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from quantpipe.core.artifact import Artifact
from quantpipe.core.stage import Context
from quantpipe.detector.checkpoint_file import load_checkpoint
from quantpipe.detector.input_specification import InputSpecification
from quantpipe.engines.contract import EngineLayer, Images, Predictions, float_layers
from quantpipe.engines.engine_file import network_bytes
from quantpipe.engines.registry import load_engine, read_header
from quantpipe.evaluation.accuracy import Predictor
from quantpipe.evaluation.network import predictor
from quantpipe.quantization.model import load_model
from quantpipe.quantization.number_format import is_quantized
from quantpipe.stages.artifacts import ENGINE, MODEL


@dataclass(frozen=True, kw_only=True)
class BuiltFrom:
    """The files of an engine, of the graph that it was built from, and of the model of that."""

    engine: Path
    graph: Path
    model: Path


@dataclass(frozen=True, kw_only=True)
class OpenVariant:
    """A variant that is ready to run.

    Attributes:
        name: As wired into the step.
        predict: Images (B, 3, H, W) to predictions (B, A, 5 + C), as arrays.
        precision: fp32, half or int8.
        float_precision: What its float layers run in: fp32 or half.
        engine: The library that runs it.
        specification: What it takes.
        mib: Size of its file.
        detects: Whether rows are detections: its graph holds the suppression.
        layers: Those of an engine.
        num_float_layers: Layers of an INT8 engine that could run in INT8 and do not.
        run_all: Computes several batches at once; None where one at a time is all it was built for.
        built_from: Where an engine comes from; None for a network.
    """

    name: str
    predict: Predictor
    precision: str
    float_precision: str
    engine: str
    specification: InputSpecification
    mib: float
    detects: bool
    layers: Sequence[EngineLayer]
    num_float_layers: int | None
    run_all: Callable[[Iterable[Images]], list[Predictions]] | None
    built_from: BuiltFrom | None


@contextmanager
def opened(artifacts: Mapping[str, Artifact], context: Context) -> Iterator[dict[str, OpenVariant]]:
    """Opens every engine and model, and closes the engines again.

    Raises:
        ArtifactError: A file is damaged.
        MachineError: An engine was built elsewhere.
    """
    with ExitStack() as stack:
        yield {
            name: _OPENERS[artifact.kind.name](name, artifact, context, stack)
            for name, artifact in artifacts.items()
        }


def _open_engine(
    name: str,
    artifact: Artifact,
    context: Context,  # noqa: ARG001
    stack: ExitStack,
) -> OpenVariant:
    header = read_header(artifact.path)
    settings = header.settings
    engine = load_engine(settings.engine.name, artifact.path)
    layers = engine.layers()
    stack.callback(engine.close)
    built_from = _lineage(artifact)
    return OpenVariant(
        name=name,
        predict=engine.run,
        precision=settings.precision,
        float_precision=settings.float_precision,
        engine=settings.engine.name,
        specification=load_checkpoint(built_from.model).input,
        mib=network_bytes(artifact.path) / 2**20,
        detects=header.num_classes is not None,
        layers=layers,
        num_float_layers=len(float_layers(layers)) if is_quantized(settings.precision) else None,
        run_all=engine.run_all if settings.engine.mode == "throughput" else None,
        built_from=built_from,
    )


def _lineage(engine: Artifact) -> BuiltFrom:
    graph = engine.sources["graph"]
    return BuiltFrom(engine=engine.path, graph=graph.path, model=graph.sources["model"].path)


def _open_model(
    name: str,
    artifact: Artifact,
    context: Context,
    stack: ExitStack,  # noqa: ARG001
) -> OpenVariant:
    model = load_model(artifact.path, context.device)
    return OpenVariant(
        name=name,
        predict=predictor(model.quantized, context.device),
        precision="fp32" if model.scales is None else model.scales.number_format.name,
        float_precision="fp32",
        engine="torch",
        specification=model.checkpoint.input,
        mib=artifact.path.stat().st_size / 2**20,
        detects=False,
        layers=(),
        num_float_layers=None,
        run_all=None,
        built_from=None,
    )


_OPENERS: Mapping[str, Callable[[str, Artifact, Context, ExitStack], OpenVariant]] = {
    ENGINE.name: _open_engine,
    MODEL.name: _open_model,
}
