"""What ONNX Runtime is told on a GPU; a stand-in records it, and computes on the processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from tests.engines.fake_onnxruntime import RTX, FakeOnnxRuntime, Plugin

from quantpipe.engines import registry
from quantpipe.engines.contract import BuildInputs, Engine, Platform
from quantpipe.engines.engine_file import read_engine_file
from quantpipe.engines.onnxruntime.gpu import GpuBackend
from quantpipe.engines.onnxruntime.kernels import failures
from quantpipe.engines.onnxruntime.providers import PROVIDERS
from quantpipe.engines.registry import ENGINES, availability, platform_here, require_precision
from quantpipe.errors import ArtifactError, ConfigurationError, MachineError
from quantpipe.export.nms import append_nms
from quantpipe.graph.suppression import Suppression

KINDS = pytest.mark.parametrize("kind", list(PROVIDERS))
HERE = Platform(library="onnxruntime 1.99.0", hardware="a GPU")


class Backend:
    """A backend over the stand-in, on one platform."""

    def __init__(self, kind: str, tiny: Any, **how: Any):
        self.kind, self._tiny, self.ort = kind, tiny, FakeOnnxRuntime(**how)
        plugin = Plugin if PROVIDERS[kind].plugin else None
        self._backend = GpuBackend(spec=ENGINES[kind], ort=self.ort, plugin=plugin)

    def build(self, source: Path, path: Path, **changes: Any) -> None:
        settings = self._tiny.settings(self.kind, **changes)
        self._backend.build(source, path, settings, HERE, BuildInputs())

    def load(self, path: Path) -> Engine:
        return self._backend.load(path, HERE)


@pytest.fixture
def backend(tiny: Any) -> Any:
    """``backend(kind, **how)``: a backend, and the stand-in that it calls."""

    def make(kind: str, **how: Any) -> tuple[Backend, FakeOnnxRuntime]:
        made = Backend(kind, tiny, **how)
        return made, made.ort

    return make


@KINDS
@pytest.mark.parametrize("num_images", [1, 6])
def test_an_engine_computes_what_its_graph_does(
    tiny: Any, backend: Any, kind: str, float_onnx: Path, tmp_path: Path, num_images: int
) -> None:
    made, _ = backend(kind)
    made.build(float_onnx, tmp_path / "e")
    engine = made.load(tmp_path / "e")
    images = tiny.images(num_images)
    expected = tiny.reference(tiny.model(), images)
    np.testing.assert_allclose(engine.run(images), expected, rtol=1e-5, atol=1e-5)
    engine.close()


@KINDS
def test_height_comes_before_width(tiny: Any, backend: Any, kind: str, tmp_path: Path) -> None:
    size = (20, 52)
    onnx.save(tiny.model(image_size=size), tmp_path / "wide.onnx")
    made, ort = backend(kind)
    made.build(tmp_path / "wide.onnx", tmp_path / "e", image_size=size)
    engine = made.load(tmp_path / "e")
    assert engine.run(tiny.images(5, size)).shape == (5, 20 * 52 // 4, 6)
    assert len(engine.layers()) == len(tiny.model().graph.node)
    told = ort.sessions[0].orders[PROVIDERS[kind].name]
    shapes = {value for key, value in told.items() if key.endswith("shapes")}
    assert shapes == (
        set() if kind == "onnxruntime_cuda" else {"images:1x3x20x52", "images:4x3x20x52"}
    )


@KINDS
def test_detections_come_as_predictions(tiny: Any, backend: Any, kind: str, tmp_path: Path) -> None:
    settings = Suppression(confidence=2.0, iou=0.5, max_detections=9)
    path = tmp_path / "nms.onnx"
    path.write_bytes(append_nms(tiny.model(), settings, ["it"], "onnx").SerializeToString())
    made, _ = backend(kind)
    made.build(path, tmp_path / "e")
    found = made.load(tmp_path / "e").run(tiny.images(5))
    assert found.shape == (5, 9, 6)
    assert set(np.unique(found[..., 4])) <= {0.0, 1.0}
    assert found[..., 5].max() > 2.0


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("onnxruntime_cuda", {}, {"use_tf32": "0"}),
        (
            "onnxruntime_tensorrt",
            {"precision": "int8", "float_precision": "half"},
            {
                "trt_fp16_enable": "1",
                "trt_int8_enable": "1",
                "trt_max_workspace_size": str(64 << 20),
                "trt_profile_min_shapes": "images:1x3x32x32",
                "trt_profile_opt_shapes": "images:4x3x32x32",
                "trt_profile_max_shapes": "images:4x3x32x32",
            },
        ),
        (
            "onnxruntime_tensorrt_rtx",
            {"precision": "half"},
            {
                "nv_max_workspace_size": str(64 << 20),
                "nv_profile_min_shapes": "images:1x3x32x32",
                "nv_profile_opt_shapes": "images:4x3x32x32",
                "nv_profile_max_shapes": "images:4x3x32x32",
            },
        ),
    ],
)
def test_a_provider_is_told_what_it_documents(
    backend: Any,
    kind: str,
    changes: Any,
    expected: dict[str, str],
    float_onnx: Path,
    tmp_path: Path,
) -> None:
    made, ort = backend(kind)
    made.build(float_onnx, tmp_path / "e", **changes)
    assert ort.sessions[-1].orders[PROVIDERS[kind].name] == expected
    assert ort.options[-1].entries["session.qdqisint8allowed"] == "1"
    made.load(tmp_path / "e")
    loading = {key: value for key, value in expected.items() if "workspace" not in key}
    assert ort.sessions[-1].orders[PROVIDERS[kind].name] == loading
    assert "ep.context_enable" not in ort.options[-1].entries


@pytest.mark.parametrize(
    ("precision", "floats", "told"),
    [("fp32", "half", ("0", "0")), ("half", "fp32", ("1", "0")), ("int8", "fp32", ("0", "1"))],
)
def test_tensorrt_is_allowed_the_precisions_of_the_engine(
    backend: Any, float_onnx: Path, tmp_path: Path, precision: str, floats: str, told: Any
) -> None:
    made, ort = backend("onnxruntime_tensorrt")
    made.build(float_onnx, tmp_path / "e", precision=precision, float_precision=floats)
    orders = ort.sessions[-1].orders["TensorrtExecutionProvider"]
    assert (orders["trt_fp16_enable"], orders["trt_int8_enable"]) == told


@KINDS
def test_what_was_compiled_is_kept_where_there_is_something(
    backend: Any, kind: str, float_onnx: Path, tmp_path: Path
) -> None:
    made, _ = backend(kind)
    made.build(float_onnx, tmp_path / "e")
    (blob,) = read_engine_file(tmp_path / "e", ENGINES[kind]).blobs.values()
    producer = onnx.load_model_from_string(blob).producer_name
    assert producer == ("compiled" if PROVIDERS[kind].compiles else "")


def test_the_plugin_is_registered_once_and_gets_its_options(
    tiny: Any, backend: Any, float_onnx: Path, tmp_path: Path
) -> None:
    """ONNX Runtime ignores a misspelled keyword for the options and runs on the processor."""
    made, ort = backend("onnxruntime_tensorrt_rtx")
    for name in ("a", "b"):
        made.build(float_onnx, tmp_path / name)
        made.load(tmp_path / name).run(tiny.images(1))
    assert ort.registered == [(RTX, "/plugin.so")]
    assert all(session.get_providers()[0] == RTX for session in ort.sessions)


@KINDS
def test_falling_back_to_the_processor_is_an_error(
    backend: Any, kind: str, float_onnx: Path, tmp_path: Path
) -> None:
    name = PROVIDERS[kind].name
    made, _ = backend(kind, broken=(name,))
    told = f"{name} finds no GPU" if PROVIDERS[kind].plugin else f"{name} could not start, .* fell"
    with pytest.raises(MachineError, match=told):
        made.build(float_onnx, tmp_path / "e")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("kind", ["onnxruntime_cuda", "onnxruntime_tensorrt"])
def test_a_build_of_onnxruntime_without_the_provider_is_an_error(
    backend: Any, kind: str, float_onnx: Path, tmp_path: Path
) -> None:
    made, ort = backend(kind, available=())
    with pytest.raises(MachineError, match=r"1\.99\.0 was built without .*install onnxruntime-gpu"):
        made.build(float_onnx, tmp_path / "e")
    assert not ort.sessions


@KINDS
def test_kernels_are_listed_with_their_types_and_times(
    tiny: Any, backend: Any, kind: str, float_onnx: Path, tmp_path: Path
) -> None:
    made, ort = backend(kind)
    made.build(float_onnx, tmp_path / "e")
    engine = made.load(tmp_path / "e")
    names = [node.name for node in tiny.model().graph.node]
    layers = engine.layers()
    assert [layer.name for layer in layers] == names
    assert {layer.precision for layer in layers} == {"fp16"}
    assert [layer.kind for layer in layers if layer.quantizable] == ["Conv", "Conv"]
    times = engine.profile(tiny.images(4), 3)
    assert [(time.name, time.milliseconds) for time in times] == [(name, 1.001) for name in names]
    assert ort.options[-1].enable_profiling
    assert not ort.options[-2].entries.get("ep.context_enable")


@KINDS
def test_what_the_library_refuses_is_one_line(
    backend: Any, kind: str, float_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, ort = backend(kind)
    made.build(float_onnx, tmp_path / "e")

    def refuse(*how: Any, **more: Any) -> Any:
        raise failures(ort)[-1]("no kernel")

    monkeypatch.setattr(ort, "InferenceSession", refuse)
    with pytest.raises(ArtifactError, match="no kernel"):
        made.build(float_onnx, tmp_path / "f")
    with pytest.raises(MachineError, match="no kernel; build the engine again here"):
        made.load(tmp_path / "e")


@KINDS
def test_a_machine_without_it_is_told_what_to_install(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_version", lambda names: None)
    monkeypatch.setattr(registry, "_installed", lambda name: name == "onnxruntime")
    wanted = "onnxruntime_ep_nv_tensorrt_rtx" if PROVIDERS[kind].plugin else "onnxruntime-gpu"
    reason = availability(kind)
    assert reason is not None
    assert reason.startswith(f"engine '{kind}' needs {wanted}; install it with: pip ")
    assert reason.endswith(ENGINES[kind].install)


def test_an_engine_is_tied_to_the_libraries_below_onnxruntime_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions = {"onnxruntime-gpu": "1.99", "tensorrt-cu13": "11.1"}

    def version(names: Sequence[str]) -> str | None:
        return next((versions[name] for name in names if name in versions), None)

    monkeypatch.setattr(registry, "_version", version)
    for name in ("onnxruntime_cuda", "onnxruntime_tensorrt"):
        kind = replace(ENGINES[name], hardware=lambda: "a GPU")
        monkeypatch.setitem(cast("dict[str, Any]", ENGINES), name, kind)
    assert platform_here("onnxruntime_tensorrt") == Platform(
        library="onnxruntime_tensorrt 1.99, tensorrt-cu13 11.1", hardware="a GPU"
    )
    assert platform_here("onnxruntime_cuda").library == "onnxruntime_cuda 1.99"


def test_cuda_has_no_int8_kernels() -> None:
    with pytest.raises(ConfigurationError, match="known: fp32, half"):
        require_precision("onnxruntime_cuda", "int8")
    require_precision("onnxruntime_tensorrt", "int8")
