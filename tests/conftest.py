"""What tests of several packages take, and the order that keeps several processes busy.

Heavy libraries are imported only where a fixture takes them.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import onnx
    from tests.exported_network import Exported

# Networks this small are slower on several threads, and processes would fight for the cores. Read
# by torch, OpenBLAS and whatever a test starts, when they are loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# The longest files begin first: one of them at the end would leave the other processes idle.
_FIRST = ("end_to_end", "faults", "distributed", "cli", "stages")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the tests by the folder they are in."""
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return _FIRST.index(folder) if folder in _FIRST else len(_FIRST)

    items.sort(key=place)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A small detector, its float graph and its ranges, made once."""
    from tests.exported_network import export_small_network

    return export_small_network(tmp_path_factory.mktemp("float"))


@pytest.fixture(scope="session")
def crowded(exported: Exported) -> onnx.ModelProto:
    """The same graph with boxes that overlap."""
    from tests.exported_network import with_wider_boxes

    return with_wider_boxes(exported.graph)


@pytest.fixture
def tiny() -> SimpleNamespace:
    """A graph of two convolutions, with what it computes and how it is built."""
    from tests import tiny_graph

    return SimpleNamespace(
        settings=tiny_graph.settings,
        model=tiny_graph.tiny_model,
        reference=tiny_graph.reference,
        images=tiny_graph.some_images,
        image_size=tiny_graph.IMAGE_SIZE,
    )


@pytest.fixture
def float_onnx(tmp_path: Path) -> Path:
    """The file of that graph."""
    from tests.tiny_graph import tiny_model

    path = tmp_path / "float.onnx"
    path.write_bytes(tiny_model().SerializeToString())
    return path


@pytest.fixture
def int8_onnx(tmp_path: Path) -> Path:
    """The file of that graph with Q/DQ."""
    from tests.tiny_graph import tiny_model

    path = tmp_path / "int8.onnx"
    path.write_bytes(tiny_model(quantized=True).SerializeToString())
    return path
