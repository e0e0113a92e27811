"""The command in a folder of its own: a fork of a server where many are tried, else a process."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from faults.fork_server import ForkServer

import quantpipe

_SOURCES = Path(quantpipe.__file__).parents[1]
_WITHOUT_TORCH = """
import runpy, sys
try:
    runpy.run_module("quantpipe", run_name="__main__", alter_sys=True)
finally:
    loaded = {"torch", "cv2", "onnx", "openvino", "onnxruntime"} & set(sys.modules)
    if loaded:
        print("heavy imports:", *sorted(loaded), file=sys.stderr)
"""


@dataclass(frozen=True)
class Finished:
    """What a command printed and returned."""

    code: int
    out: str
    err: str

    def one_line(self) -> str:
        """The only line of its error output, which is no traceback."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("quantpipe: error: "), self.err
        assert not self.out, self.out
        return self.err.removeprefix("quantpipe: error: ").rstrip("\n")


def start(folder: Path, *arguments: str, **more_environment: str) -> Finished:
    """Runs ``python -m quantpipe`` and fails where it loads what only work needs."""
    environment = os.environ | {"PYTHONPATH": str(_SOURCES)} | more_environment
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Finished(code=done.returncode, out=done.stdout, err=done.stderr)


def fork(folder: Path, *arguments: str) -> Finished:
    """Runs the command in a fork of a server, which spares it the start of Python.

    Never a fork of the process of the tests: libraries have started threads there.
    """
    ended = _server().run(folder, *arguments)
    return Finished(code=ended.code, out=ended.out, err=ended.err)


@cache
def _server() -> ForkServer:
    server = ForkServer()
    atexit.register(server.__exit__, None, None, None)
    return server.__enter__()
