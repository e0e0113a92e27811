"""The command in a folder of its own: forked where many are tried, a new process otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import quantpipe
from quantpipe.cli import command

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
    """Runs the command in a fork of this process, which spares it the start of Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other tests may have threads
        child = os.fork()
    out, err = folder.with_name(f"{folder.name}.out"), folder.with_name(f"{folder.name}.err")
    if not child:
        _run(folder, arguments, out, err)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return Finished(code=code, out=out.read_text(), err=err.read_text())


def _run(folder: Path, arguments: tuple[str, ...], out: Path, err: Path) -> None:
    code: object = 99
    try:
        os.chdir(folder)
        sys.argv = ["quantpipe", *arguments]
        sys.stdout, sys.stderr = out.open("w"), err.open("w")
        warnings.resetwarnings()
        warnings.simplefilter("default")
        command.main()
    except SystemExit as exit_:
        code = exit_.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 98)
