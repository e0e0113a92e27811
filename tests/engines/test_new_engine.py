"""A library that is not here needs a spec in the table, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import onnx
import onnx.reference
import pytest

from quantpipe.engines.contract import (
    BuildInputs,
    BuildSettings,
    EngineLayer,
    Images,
    LayerTime,
    LibrarySettings,
    Platform,
    Predictions,
)
from quantpipe.engines.engine_file import (
    EngineFile,
    EngineHeader,
    read_engine_file,
    require_platform,
    write_engine_file,
)
from quantpipe.engines.engine_spec import EngineSpec, Opsets, QuantizedNode
from quantpipe.engines.fallback import fallbacks
from quantpipe.engines.registry import (
    ENGINES,
    availability,
    build_engine,
    load_engine,
    read_header,
    require_calibration_cache,
)
from quantpipe.engines.source import typed_source
from quantpipe.errors import ConfigurationError, MachineError
from quantpipe.graph.onnx_source import read_onnx_source
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.placement import Placement
from quantpipe.schema import Between
from quantpipe.settings.engine import resolved_opset


@dataclass(frozen=True, kw_only=True)
class ToySettings(LibrarySettings):
    """What all libraries are told, and what only toys are."""

    name: Literal["toy"]
    patience: Annotated[int, Between(0, 9)]


class ToyEngine:
    """Runs the graph in ONNX's reference implementation."""

    def __init__(self, graph: bytes):
        self._model = onnx.load_model_from_string(graph)

    def run(self, images: Images) -> Predictions:
        outputs: Any = onnx.reference.ReferenceEvaluator(self._model).run(None, {"images": images})
        return cast(Predictions, outputs[0])

    def run_all(self, batches: Iterable[Images]) -> list[Predictions]:
        return [self.run(images) for images in batches]

    def layers(self) -> Sequence[EngineLayer]:
        return [
            EngineLayer(name=n.name, kind=n.op_type, precision="fp32", quantizable=True)
            for n in self._model.graph.node
            if n.op_type == "Conv"
        ]

    def profile(self, images: Images, num_runs: int) -> Sequence[LayerTime]:
        return [LayerTime(name=layer.name, milliseconds=1.0) for layer in self.layers()]

    def close(self) -> None:
        """Nothing is held."""


class ToyBackend:
    """What a library's backend does, in a few lines."""

    def build(
        self,
        onnx_path: Path,
        engine_path: Path,
        settings: BuildSettings[Any],
        platform: Platform,
        inputs: BuildInputs,
    ) -> None:
        assert settings.engine.patience == 3
        source = read_onnx_source(
            onnx_path, image_size=settings.image_size, batch_sizes=settings.engine.batch_sizes
        )
        header = EngineHeader(
            platform=platform,
            settings=settings,
            onnx_sha256=source.sha256,
            num_classes=source.num_classes,
        )
        write_engine_file(engine_path, EngineFile(header=header, blobs={"graph": source.content}))

    def load(self, engine_path: Path, platform: Platform) -> ToyEngine:
        engine = read_engine_file(engine_path, ENGINES["toy"])
        require_platform(engine_path, engine.header, platform)
        return ToyEngine(engine.blobs["graph"])


def _reason(node: QuantizedNode) -> str | None:
    return f"toys have no {node.kind} in integers"


TOY = EngineSpec(
    name="toy",
    settings=ToySettings,
    packages=("json",),
    distributions=("numpy",),
    install="pip install toy",
    precisions=("fp32", "half", "int8"),
    modes=("latency",),
    hardware=lambda: "a table",
    backend=ToyBackend,
    placement=Placement(
        activations={INT8: (INT8,)},
        folded_weights=True,
        quantized_concat_inputs=False,
    ),
    opsets=lambda: Opsets(best=18, newest=19, reader="Toy 1"),
    half_in_graph=lambda calibration_cache: not calibration_cache,
    fallback=_reason,
)


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cast("dict[str, EngineSpec]", ENGINES), "toy", TOY)


def settings(**changes: Any) -> BuildSettings[Any]:
    engine = ToySettings(
        name="toy", batch_sizes=(2,), float_precision="half", mode="latency", patience=3
    )
    fields: dict[str, Any] = {"engine": engine, "precision": "fp32", "image_size": (20, 52)}
    return BuildSettings(**{**fields, **changes})


def test_it_builds_and_loads(tiny: Any, tmp_path: Path) -> None:
    model = tiny.model(image_size=(20, 52))
    onnx.save(model, tmp_path / "model.onnx")
    assert availability("toy", building=True) is None
    build_engine(tmp_path / "model.onnx", tmp_path / "e", settings())
    header = read_header(tmp_path / "e")
    assert header.settings == settings()
    assert header.platform == Platform(library=f"toy {np.__version__}", hardware="a table")
    engine = load_engine("toy", tmp_path / "e")
    images = tiny.images(2, (20, 52))
    np.testing.assert_array_equal(engine.run(images), tiny.reference(model, images))


def test_an_engine_of_another_platform_is_refused(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, float_onnx: Path
) -> None:
    build_engine(float_onnx, tmp_path / "e", settings(image_size=tiny.image_size))
    content = (tmp_path / "e").read_bytes()
    assert json.dumps("a table").encode() in content
    monkeypatch.setitem(
        cast("dict[str, EngineSpec]", ENGINES),
        "toy",
        EngineSpec(**{**vars(TOY), "hardware": lambda: "a chair"}),
    )
    with pytest.raises(MachineError, match="hardware 'a table', but this machine has 'a chair'"):
        load_engine("toy", tmp_path / "e")


def test_its_rules_are_asked_for(tiny: Any, tmp_path: Path, float_onnx: Path) -> None:
    assert resolved_opset("auto", "toy") == 18
    with pytest.raises(ConfigurationError, match="Toy 1 parses ONNX up to opset 19, not 20"):
        resolved_opset(20, "toy")
    with pytest.raises(ConfigurationError, match="is read by TensorRT up to 10, not by toy"):
        require_calibration_cache("toy")
    half = tmp_path / "half.onnx"
    assert typed_source(settings(), float_onnx, half) == float_onnx
    assert typed_source(settings(precision="half"), float_onnx, half) == half
    assert typed_source(settings(precision="int8"), float_onnx, half) == half
    assert (
        typed_source(settings(precision="half"), float_onnx, half, calibration_cache=True)
        == float_onnx
    )
    layers = [EngineLayer(name="stem", kind="Conv", precision="fp32", quantizable=True)]
    (found,) = fallbacks("toy", layers, tiny.model(quantized=True))
    assert found.reason == "toys have no Conv in integers"
