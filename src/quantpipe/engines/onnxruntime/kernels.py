"""What ONNX Runtime tells of the kernels that ran, and how it fails; on any provider."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from quantpipe.engines.contract import Images, LayerTime
from quantpipe.engines.profile import fastest_times
from quantpipe.errors import MachineError

ERRORS_ONLY = 3
"""Severity of the library's log."""

_KERNEL = "_kernel_time"
_FAILURES = (
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NotImplemented",
    "RuntimeException",
    "EPFail",
)
Event = Mapping[str, Any]


class Opening(Protocol):
    """Opens a session that counts into files whose names begin with a prefix."""

    def __call__(self, *, profile_prefix: str) -> Any:
        """Returns the session."""
        ...


def failures(ort: Any) -> tuple[type[Exception], ...]:
    """Returns the classes that the binding raises, which share no base but Exception."""
    state = ort.capi.onnxruntime_pybind11_state
    return tuple(getattr(state, name) for name in _FAILURES)


def kernel_events(opened: Opening, input_name: str, images: Images, num_runs: int) -> list[Event]:
    """Returns an event for each kernel of each run, in order.

    A session counts from its start or not at all, so another one than the engine's does.
    """
    with TemporaryDirectory() as folder:
        session = opened(profile_prefix=str(Path(folder) / "profile"))
        for _ in range(num_runs):
            session.run(None, {input_name: images})
        events = _read(Path(session.end_profiling()))
    return [e for e in events if e.get("cat") == "Node" and str(e["name"]).endswith(_KERNEL)]


def _read(profile: Path) -> list[Event]:
    try:
        events: list[Event] = json.loads(profile.read_bytes())
    except ValueError as error:  # it is not told that the disk was full
        raise MachineError(
            "the times that ONNX Runtime wrote are cut short",
            path=profile.parent,
            hint="make room there, or set TMPDIR to another folder",
        ) from error
    return events


def kernel_name(event: Event) -> str:
    """Returns the name of the node that a kernel computed."""
    return str(event["name"]).removesuffix(_KERNEL)


def kernel_times(
    opened: Opening, input_name: str, images: Images, num_runs: int
) -> Sequence[LayerTime]:
    """Returns the least time of each kernel over runs on one batch, after one that is not counted.

    Events are in microseconds.
    """
    times = [
        LayerTime(name=kernel_name(event), milliseconds=float(event["dur"]) / 1e3)
        for event in kernel_events(opened, input_name, images, num_runs + 1)
    ]
    size = len(times) // (num_runs + 1)
    return fastest_times([times[at : at + size] for at in range(size, len(times), size)])
