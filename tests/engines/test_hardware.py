from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest

from quantpipe.engines import hardware

CPUINFO = """processor\t: 0
model name\t: AMD EPYC 9R14
cpu MHz\t\t: 2600.000
flags\t\t: fpu avx2 avx512f avx512_vnni sse
processor\t: 1
model name\t: other
flags\t\t: none
"""


def test_the_processor_is_its_model_and_the_instruction_sets_that_matter() -> None:
    assert hardware.describe_processor(CPUINFO) == "AMD EPYC 9R14 (avx2 avx512f avx512_vnni)"
    faster = CPUINFO.replace("2600", "3100")
    assert hardware.describe_processor(faster) == hardware.describe_processor(CPUINFO)


def test_an_arm_processor_is_described_too() -> None:
    text = "processor: 0\nFeatures: fp asimd asimddp bf16\nCPU part: 0xd40\n"
    assert hardware.describe_processor(text) == "0xd40 (asimd asimddp bf16)"
    assert hardware.describe_processor("") == "unknown processor (baseline)"


@pytest.fixture
def smi(monkeypatch: pytest.MonkeyPatch) -> Any:
    answers = {}

    def run(command: Any, **options: Any) -> Any:
        answers["command"] = command
        return subprocess.CompletedProcess(command, answers["code"], answers["text"], "")

    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(subprocess, "run", run)
    hardware.nvidia_gpu.cache_clear()
    yield answers
    hardware.nvidia_gpu.cache_clear()


def test_the_gpu_is_its_name_and_capability(smi: Any) -> None:
    smi.update(code=0, text="NVIDIA T4, 7.5\nNVIDIA A10, 8.6\n")
    assert hardware.nvidia_gpu() == "NVIDIA T4 (compute capability 7.5)"


def test_the_first_visible_gpu_is_asked_for(smi: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    smi.update(code=0, text="NVIDIA T4, 7.5\n")
    hardware.nvidia_gpu()
    assert "--id=3" in smi["command"]


@pytest.mark.parametrize(("code", "text"), [(9, "No devices were found"), (0, "")])
def test_no_gpu_is_none(smi: Any, code: int, text: str) -> None:
    smi.update(code=code, text=text)
    assert hardware.nvidia_gpu() is None
