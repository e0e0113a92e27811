from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from quantpipe.errors import ArtifactError, NumericalError
from quantpipe.export.onnx_graph import write_graph
from quantpipe.export.tolerance import Tolerance
from quantpipe.export.verify import compare, verify_against

TIGHT = Tolerance(box_max_abs=1e-3, box_mean_abs=1e-4, score_max_abs=1e-4, score_mean_abs=1e-5)


def _reference(exported: Any) -> Any:
    def run(images: Any) -> Any:
        with torch.no_grad():
            return exported.network(torch.from_numpy(images)).numpy()

    return run


def test_the_exported_graph_passes(exported: Any) -> None:
    parity = verify_against(_reference(exported), exported.path, exported.images.numpy(), TIGHT)
    assert parity.box_max_abs < 1e-3


def test_compare_tells_boxes_from_scores() -> None:
    expected = np.zeros((1, 2, 7), dtype=np.float32)
    actual = expected.copy()
    actual[0, 0, 2] = 3.0
    actual[0, 1, 6] = -0.5
    parity = compare(expected, actual)
    assert (parity.box_max_abs, parity.box_mean_abs) == (3.0, 3.0 / 8)
    assert (parity.score_max_abs, parity.score_mean_abs) == (0.5, 0.5 / 4)
    assert (parity.max_abs, parity.mean_abs) == (3.0, 3.5 / 14)


def test_one_changed_weight_fails(exported: Any, tmp_path: Path) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(exported.graph)
    tensor = next(t for t in graph.graph.initializer if t.name == "detect.reg_preds.0.weight")
    values = onnx.numpy_helper.to_array(tensor) * np.float32(1.1)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    write_graph(tmp_path / "other.onnx", graph)
    with pytest.raises(ArtifactError, match="box_max_abs"):
        verify_against(
            _reference(exported), tmp_path / "other.onnx", exported.images.numpy(), TIGHT
        )


def test_nan_never_passes(exported: Any) -> None:
    def reference(images: Any) -> Any:
        return np.full((len(images), 84, 8), np.nan, dtype=np.float32)

    with pytest.raises(NumericalError, match="finite"):
        verify_against(reference, exported.path, exported.images.numpy(), TIGHT)


def test_another_shape_is_refused(exported: Any) -> None:
    with pytest.raises(ArtifactError, match=r"\[4, 84, 8\]"):
        verify_against(
            lambda images: np.zeros((4, 84, 9), np.float32),
            exported.path,
            exported.images.numpy(),
            TIGHT,
        )


def test_an_unreadable_file_is_an_artifact_error(exported: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(exported.path.read_bytes()[:5000])
    for name in ("broken.onnx", "missing.onnx"):
        with pytest.raises(ArtifactError):
            verify_against(_reference(exported), tmp_path / name, exported.images.numpy(), TIGHT)
