from __future__ import annotations

import pytest

from quantpipe.errors import MachineError
from quantpipe.settings import device


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "version", lambda name: "2.9.0+cu130")
    monkeypatch.setattr(device, "nvidia_gpu", lambda: "NVIDIA T4, 7.5")


def test_the_cpu_is_always_there() -> None:
    assert device.resolve_device("cpu") == "cpu"


@pytest.mark.usefixtures("with_cuda")
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_gpu_is_taken_where_there_is_one(name: str) -> None:
    assert device.resolve_device(name) == "cuda"


@pytest.mark.usefixtures("with_cuda")
def test_a_build_without_cuda_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "version", lambda name: "2.9.0+cpu")
    assert device.resolve_device("auto") == "cpu"
    with pytest.raises(MachineError, match=r"^device=cuda: .* without CUDA; set device=cpu"):
        device.resolve_device("cuda")


@pytest.mark.usefixtures("with_cuda")
def test_a_machine_without_a_gpu_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "nvidia_gpu", lambda: None)
    assert device.resolve_device("auto") == "cpu"
    with pytest.raises(MachineError, match="no NVIDIA GPU"):
        device.resolve_device("cuda")
