"""One observation of every batch for each operation, every one kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import nn

from quantpipe.files import canonical_json, sha256_bytes
from quantpipe.progress import stop_if_asked
from quantpipe.quantization.records import Record, SavedRecords
from quantpipe.quantization.sensitivity.ranking import RankingTask
from quantpipe.quantization.sensitivity.replay import Replay

B = TypeVar("B")
S = TypeVar("S")

REFERENCE = "(reference)"
_SECONDS, _PASSES = "(seconds)", "(passes)"


@dataclass(frozen=True, kw_only=True)
class Probe(Generic[B, S]):
    """What to see of a network, and what to keep of it.

    Attributes:
        name: Of the method, and of whatever else changes what it keeps.
        observe: Runs a network once on a batch.
        reduce: Arrays from what was seen, and from what was seen of the float network.
    """

    name: str
    observe: Callable[[nn.Module, B], S]
    reduce: Callable[[S, S], Record]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What was kept, batch by batch, for each operation and for :data:`REFERENCE`, no operation.

    ``seconds`` and ``passes`` as in :class:`~quantpipe.quantization.sensitivity.ranking.Measured`.
    """

    records: dict[str, list[Record]]
    seconds: float
    passes: float


def sweep(task: RankingTask[B], probe: Probe[B, S]) -> Sweep:
    """Observes the network with each operation switched, on every batch.

    Batches are the outer loop, so that the outputs in front of an operation are kept for one batch
    and not for all images: the memory does not grow with their number. After every operation of a
    batch its record is written; a run that was killed repeats one reference pass and goes on.

    Processes that share the work take turns at the operations; each observes the reference itself.

    Raises:
        Interrupted: A signal asked to stop.
    """
    records = SavedRecords(folder=task.progress_folder, identity=_identity(task, probe))
    replay = Replay(task.network, task.scales, quantized=task.direction == "all_but")
    processes = task.processes
    own = (REFERENCE, *task.names[processes.rank :: processes.size])
    kept: dict[str, list[Record]] = {name: [] for name in own}
    with torch.no_grad():
        for name, record in task.progress.track(
            _visits(task, probe, replay, records, own),
            "sensitivity",
            total=task.num_batches * len(own),
        ):
            kept[name].append(record)
    return _of_all_processes(processes.all_gather(kept), task)


def _of_all_processes(parts: list[dict[str, list[Record]]], task: RankingTask[B]) -> Sweep:
    """The sweep of all processes; they have the reference in common."""
    found = {name: records for part in reversed(parts) for name, records in part.items()}
    in_order = {name: found[name] for name in (REFERENCE, *task.names)}
    return Sweep(
        records=in_order,
        seconds=max(_total(part, _SECONDS) for part in parts),
        passes=_total(in_order, _PASSES) / max(1, len(in_order[REFERENCE])),
    )


def _total(part: Mapping[str, list[Record]], key: str) -> float:
    return sum(float(record[key]) for records in part.values() for record in records)


def _visits(
    task: RankingTask[B],
    probe: Probe[B, S],
    replay: Replay,
    records: SavedRecords,
    names: Sequence[str],
) -> Iterator[tuple[str, Record]]:
    for number, batch in enumerate(task.batches):
        found = {name: records.read(f"{number:04d}-{name}") for name in names}
        pending = [name for name in names if found[name] is None]
        yield from ((name, record) for name, record in found.items() if record is not None)
        if not pending:
            continue
        for name, record in _observations(task, probe, replay, batch, pending):
            task.progress.status(name)
            records.write(f"{number:04d}-{name}", record)
            yield name, record
            stop_if_asked(task.progress)


def _observations(
    task: RankingTask[B], probe: Probe[B, S], replay: Replay, batch: B, pending: list[str]
) -> Iterator[tuple[str, Record]]:
    def observe(network: nn.Module) -> S:
        return probe.observe(network, batch)

    start = time.perf_counter()
    reference = replay.record(observe)
    in_float = reference if task.direction == "only" else replay.in_float(observe)
    if REFERENCE in pending:
        passes = 1.0 if task.direction == "only" else 2.0
        yield REFERENCE, _timed(probe.reduce(reference, in_float), start, passes)
    for name in pending:
        if name == REFERENCE:
            continue
        start = time.perf_counter()
        record = probe.reduce(replay.switched(name, observe), in_float)
        yield name, _timed(record, start, replay.computed_share(name))


def _timed(record: Record, start: float, passes: float) -> Record:
    seconds = np.float64(time.perf_counter() - start)
    return {**record, _SECONDS: np.asarray(seconds), _PASSES: np.asarray(passes)}


def _identity(task: RankingTask[B], probe: Probe[B, S]) -> str:
    named = {
        "scales": task.scales.to_document(),
        "direction": task.direction,
        "probe": probe.name,
        "seed": task.seed,
    }
    return sha256_bytes(canonical_json(named).encode())
