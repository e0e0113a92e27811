"""What an engine is tied to, named without importing an inference library."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from pathlib import Path

# Instruction sets that change which kernels a library picks. The clock, the microcode and the
# number of cores do not make an engine another one.
_INSTRUCTION_SETS = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "amx_fp16",
    "asimd",
    "asimddp",
    "bf16",
    "i8mm",
    "sve",
)
_CPUINFO = Path("/proc/cpuinfo")
_NVIDIA_SMI_SECONDS = 20
NO_NVIDIA_GPU = "no NVIDIA GPU answers here (nvidia-smi); choose another engine"


def processor() -> str:
    """Returns the processor's architecture, model and the instruction sets that matter."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"{platform.machine()} {platform.processor() or 'unknown processor'}"
    return f"{platform.machine()} {describe_processor(text)}"


def describe_processor(cpuinfo: str) -> str:
    """Returns ``model (instruction sets)`` from the text of ``/proc/cpuinfo``."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    model = fields.get("model name") or fields.get("CPU part") or "unknown processor"
    present = set((fields.get("flags") or fields.get("Features") or "").split())
    known = [name for name in _INSTRUCTION_SETS if name in present]
    return f"{model} ({' '.join(known) or 'baseline'})"


@functools.cache
def nvidia_gpu() -> str | None:
    """Returns the name and compute capability of the first visible NVIDIA GPU, or None."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    selection = [f"--id={visible}"] if visible else []
    query = ["--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        result = subprocess.run(  # noqa: S603 - a fixed command, found on PATH
            [command, *selection, *query],
            capture_output=True,
            text=True,
            timeout=_NVIDIA_SMI_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = result.stdout.strip().splitlines()
    if result.returncode != 0 or not lines:
        return None
    name, _, capability = lines[0].partition(",")
    return f"{name.strip()} (compute capability {capability.strip()})"
