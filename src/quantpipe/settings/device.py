"""Which processor works, decided without importing torch."""

from __future__ import annotations

from importlib.metadata import version

from quantpipe.engines.hardware import nvidia_gpu
from quantpipe.errors import MachineError


def resolve_device(name: str) -> str:
    """Returns ``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        MachineError: ``cuda`` was asked for where there is no driver or torch is a CPU build.
    """
    if name == "cpu":
        return name
    obstacle = _cuda_obstacle()
    if obstacle is None:
        return "cuda"
    if name == "auto":
        return "cpu"
    raise MachineError(obstacle, path="device=cuda", hint="set device=cpu, or device=auto")


def _cuda_obstacle() -> str | None:
    if version("torch").endswith("+cpu"):
        return "the installed torch is a build without CUDA"
    if nvidia_gpu() is None:
        return "no NVIDIA GPU answers on this machine (nvidia-smi)"
    return None
