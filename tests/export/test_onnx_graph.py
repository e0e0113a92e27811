from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from quantpipe.detector.families.yolov6.architecture import operation_names
from quantpipe.errors import ArtifactError, ConfigurationError, MachineError
from quantpipe.export.onnx_graph import export_float, lowered, read_graph, serialized, write_graph
from quantpipe.export.verify import unoptimized
from quantpipe.graph.operations import operation_nodes, repeated_name


class Pooled(nn.Module):
    """A max-pool that runs twice, a split, and a stack trace for the exporter to leave behind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        left, right = self.pool(self.pool(self.stem(images).relu())).chunk(2, dim=1)
        rows: torch.Tensor = (left + right).flatten(2).transpose(1, 2)
        return rows


def test_every_operation_is_there_in_order_under_its_name(exported: Any) -> None:
    import onnx_ir as ir

    found = operation_nodes(ir.from_proto(exported.graph).graph)
    assert list(found) == list(operation_names(exported.network.architecture))
    assert [len(nodes) for name, nodes in found.items() if name.endswith("sppf.m")] == [3]


def test_nodes_are_named_by_module_path(exported: Any) -> None:
    names = {node.name for node in exported.graph.graph.node if node.op_type == "MaxPool"}
    pool = "backbone.ERBlock_5.2.sppf.m"
    assert names == {repeated_name(pool, repeat) for repeat in range(3)}
    convolutions = [node for node in exported.graph.graph.node if node.op_type == "Conv"]
    assert all(f"{node.name}.weight" == node.input[1] for node in convolutions)


@pytest.mark.parametrize("batch", [1, 4])
def test_any_batch_gives_the_networks_predictions(exported: Any, batch: int) -> None:
    images = exported.images[:batch]
    with torch.no_grad():
        expected = exported.network(images).numpy()
    np.testing.assert_allclose(
        unoptimized(exported.path)(images.numpy()), expected, rtol=1e-4, atol=1e-4
    )


def test_an_exporter_that_tells_no_modules_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantpipe.export.onnx_graph._SCOPES", "another.key")
    with pytest.raises(MachineError, match="does not tell which module 'node_max_pool2d' belongs"):
        export_float(Pooled(), tmp_path / "a.onnx", image_size=(32, 32), batch=1, opset=20)


def test_nothing_of_this_machine_is_inside(exported: Any) -> None:
    content = exported.path.read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in content
    assert b"stack_trace" not in content
    assert b"site-packages" not in content


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    network = Pooled().eval()
    for name in ("a.onnx", "b.onnx"):
        export_float(network, tmp_path / name, image_size=(32, 32), batch=2, opset=20)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_opset_17_computes_the_same(tmp_path: Path) -> None:
    network = Pooled().eval()
    path = tmp_path / "old.onnx"
    export_float(network, path, image_size=(32, 32), batch="dynamic", opset=17)
    graph = read_graph(path)
    onnx.checker.check_model(graph, full_check=True)
    assert [item.version for item in graph.opset_import if item.domain == ""] == [17]
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(images).numpy()
    np.testing.assert_allclose(unoptimized(path)(images.numpy()), expected, atol=1e-5)


def test_an_operator_that_changed_is_not_lowered() -> None:
    graph = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 20]>
        g (float[4] x) => (float[4] y) { y = Gelu(x) }"""
    )
    with pytest.raises(ArtifactError, match="Gelu"):
        lowered(graph, 17)


def test_a_fixed_batch_is_written_into_the_shape(tmp_path: Path) -> None:
    export_float(Pooled().eval(), tmp_path / "a.onnx", image_size=(32, 32), batch=1, opset=20)
    dims = read_graph(tmp_path / "a.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [1, 3, 32, 32]


@pytest.mark.parametrize("opset", [16, 24])
def test_an_unknown_opset_is_refused(tmp_path: Path, opset: int) -> None:
    with pytest.raises(ConfigurationError, match=str(opset)):
        export_float(Pooled(), tmp_path / "a.onnx", image_size=(32, 32), batch=1, opset=opset)
    assert not list(tmp_path.iterdir())


def test_a_damaged_or_missing_file_is_an_artifact_error(exported: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(exported.path.read_bytes()[:-1000])
    for path in (broken, tmp_path / "missing.onnx"):
        with pytest.raises(ArtifactError):
            read_graph(path)


def test_writing_is_reading_backwards(exported: Any, tmp_path: Path) -> None:
    write_graph(tmp_path / "copy.onnx", exported.graph)
    assert serialized(read_graph(tmp_path / "copy.onnx")) == serialized(exported.graph)
