"""The command in forks of one process that has imported everything and runs a single thread.

So an attempt costs a fork, not the imports. ``python -m faults.fork_server`` reads one
request a line (``folder``, ``arguments``, ``memory_mib``), answers with the child's ``pid``, and
with its ``code`` (negative for a signal) and its ``cpu_seconds`` once it ended. The client is
:class:`ForkServer`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from faults.observed_steps import observe_steps

# Left to the children, with the modules that import them: they start threads, and a fork copies
# only one.
_THREADED = ("onnxruntime", "openvino")
_POLL_SECONDS = 0.002
_LIBRARIES = (
    "cv2",
    "matplotlib.figure",
    "onnxscript",
    "pycocotools.cocoeval",
    "pytorch_quantization.nn",
    "scipy.optimize",
    "torch._dynamo",
    "torch.export",
    "torch.onnx",
)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a child ended: its exit code, or minus the signal that ended it; what it wrote.

    ``cpu_seconds`` is the time that it computed, whatever else the machine does.
    """

    code: int
    cpu_seconds: float
    out: str
    err: str

    @property
    def told(self) -> list[str]:
        """The lines in which the command says how it ended."""
        return [line for line in self.err.splitlines() if line.startswith("quantpipe: ")]


class Child:
    """A command that runs in a fork of the server."""

    def __init__(self, pid: int, folder: Path, requests: IO[str], answers: IO[str]):
        self.pid, self._folder = pid, folder
        self._requests, self._answers = requests, answers

    def send(self, number: int) -> None:
        """Sends a signal; one that ended already stays a zombie until :meth:`wait`."""
        os.kill(self.pid, number)

    def wait(self, timeout: float) -> Ended | None:
        """How it ended; None, once it was killed, where it did not end by itself in time."""
        end = time.monotonic() + timeout
        while not (gone := _is_gone(self.pid)) and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        if not gone:
            os.kill(self.pid, signal.SIGKILL)
        self._requests.write("reap\n")
        self._requests.flush()
        answer = json.loads(self._answers.readline())
        if not gone:
            return None
        out, err = _outputs(self._folder)
        text = {path: path.read_text(errors="replace") for path in (out, err)}
        return Ended(**answer, out=text[out], err=text[err])


class ForkServer:
    """The client: a context manager that starts the server and ends it."""

    def __enter__(self) -> ForkServer:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        command = [sys.executable, "-m", "faults.fork_server"]
        self._process = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[1],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answers.readline() == "ready\n", "the fork server did not start"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()

    def start(self, folder: Path, *arguments: str, memory_mib: int | None = None) -> Child:
        """Starts ``quantpipe`` with ``arguments`` in ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        request = {"folder": str(folder), "arguments": arguments, "memory_mib": memory_mib}
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        pid = json.loads(self._answers.readline())["pid"]
        return Child(pid, folder, self._requests, self._answers)

    def run(
        self, folder: Path, *arguments: str, memory_mib: int | None = None, timeout: float = 120
    ) -> Ended:
        """Runs it to its end.

        Raises:
            TimeoutError: It was killed after ``timeout`` seconds.
        """
        ended = self.start(folder, *arguments, memory_mib=memory_mib).wait(timeout)
        if ended is None:
            raise TimeoutError(f"quantpipe {' '.join(arguments)} ran for {timeout:g} s")
        return ended

    @property
    def _requests(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _answers(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout


def _is_gone(pid: int) -> bool:
    """Whether a process that nobody has reaped has ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"


def _outputs(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f"{folder.name}.out"), folder.with_name(f"{folder.name}.err")


def _serve(requests: IO[str]) -> None:
    for line in requests:
        request = json.loads(line)
        child = os.fork()
        if not child:
            _run(request)
        _answer(pid=child)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        # Reaped only when the client is done with it: its number must not be given away before.
        requests.readline()
        _, status, usage = os.wait4(child, 0)
        seconds = usage.ru_utime + usage.ru_stime
        _answer(code=os.waitstatus_to_exitcode(status), cpu_seconds=seconds)


def _answer(**values: float) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def _run(request: dict[str, Any]) -> None:
    """The child: what a fresh ``python -m quantpipe`` would do."""
    from quantpipe.cli import command

    code: object = 99
    folder = Path(request["folder"])
    out, err = _outputs(folder)
    try:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), descriptor)
        if request["memory_mib"] is not None:
            _limit_memory(request["memory_mib"])
        sys.argv = ["quantpipe", *request["arguments"]]
        warnings.resetwarnings()
        command.main()
    except SystemExit as exit_:
        code = exit_.code
    except KeyboardInterrupt:
        code = 130
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 98)


def _limit_memory(mib: int) -> None:
    """Lets the process map ``mib`` more than it has mapped by now."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = mapped + mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _import_all() -> None:
    import quantpipe

    for name in _LIBRARIES:
        importlib.import_module(name)
    with _missing(_THREADED):
        for module in pkgutil.walk_packages(quantpipe.__path__, "quantpipe."):
            if not module.name.endswith(".__main__"):
                with suppress(ModuleNotFoundError):
                    importlib.import_module(module.name)


@contextmanager
def _missing(libraries: Sequence[str]) -> Iterator[None]:
    """Lets the block find none of these."""
    hidden: Any = dict.fromkeys(libraries)
    sys.modules.update(hidden)
    try:
        yield
    finally:
        for name in libraries:
            del sys.modules[name]


def main() -> None:
    """Imports, then serves until its input ends."""
    warnings.simplefilter("ignore")
    _import_all()
    import torch

    torch.set_num_threads(1)
    observe_steps()
    threads = list(Path("/proc/self/task").iterdir())
    assert len(threads) == 1, f"{len(threads)} threads: a fork would copy one of them"
    gc.collect()
    gc.freeze()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    _serve(sys.stdin)


if __name__ == "__main__":
    main()
