from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest

from quantpipe.engines.tensorrt.version import installed_tensorrt, tensorrt_version
from quantpipe.errors import MachineError


@pytest.mark.parametrize(
    ("text", "types_in_graph", "implicit", "opset", "newest", "number"),
    [
        ("8.6.1", False, True, 17, 17, 8601),
        ("10.0.1", False, True, 17, 20, 100001),
        ("tensorrt 10.3.0", False, True, 17, None, 100300),
        ("10.12.0.36", True, True, 20, None, 101200),
        ("10.14.1.48", True, True, 20, None, 101401),
        ("11.4.0.106", True, False, 20, None, 110400),
    ],
)
def test_what_a_version_takes(
    text: str, types_in_graph: Any, implicit: Any, opset: int, newest: int | None, number: int
) -> None:
    version = tensorrt_version(text)
    assert version.types_in_graph == types_in_graph
    assert version.implicit_quantization == implicit
    assert (version.opset, version.newest_opset) == (opset, newest)
    assert version.number == number


@pytest.mark.parametrize(
    ("text", "with_cache", "without"),
    [("8.6.1", False, False), ("10.16.1", False, True), ("11.4.0", True, True)],
)
def test_ranges_beside_the_graph_make_it_weakly_typed_while_that_is_possible(
    text: str, with_cache: bool, without: bool
) -> None:
    version = tensorrt_version(text)
    assert version.takes_types_from_graph(calibration_cache=True) is with_cache
    assert version.takes_types_from_graph(calibration_cache=False) is without


@pytest.mark.parametrize("text", ["8.5.3", "7.2", "unknown"])
def test_older_ones_are_refused(text: str) -> None:
    with pytest.raises(MachineError):
        tensorrt_version(text)


@pytest.mark.parametrize("distribution", ["tensorrt", "tensorrt-cu12", None])
def test_the_version_is_read_without_importing_the_library(
    distribution: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name != distribution:
            raise metadata.PackageNotFoundError(name)
        return "10.3.0"

    monkeypatch.setattr(metadata, "version", version)
    found = installed_tensorrt()
    assert found == (None if distribution is None else tensorrt_version("10.3.0"))
