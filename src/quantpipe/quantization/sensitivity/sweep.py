"""One look at every batch for each operation, every look kept."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import nn

from quantpipe.errors import Interrupted
from quantpipe.files import canonical_json, sha256_bytes
from quantpipe.quantization.records import Record, SavedRecords
from quantpipe.quantization.sensitivity.ranking import Subject
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
        look: Runs a network once on a batch.
        keep: Arrays from what was seen, and from what was seen of the float network.
    """

    name: str
    look: Callable[[nn.Module, B], S]
    keep: Callable[[S, S], Record]


@dataclass(frozen=True, kw_only=True)
class Walk:
    """What was kept, batch by batch, for each operation and for :data:`REFERENCE`, no operation.

    ``seconds`` and ``passes`` as in :class:`~quantpipe.quantization.sensitivity.ranking.Measured`.
    """

    records: dict[str, list[Record]]
    seconds: float
    passes: float


def walk(subject: Subject[B], probe: Probe[B, S]) -> Walk:
    """Looks at the network with each operation switched, on every batch.

    Batches are the outer loop, so that the outputs in front of an operation are kept for one batch
    and not for all images: the memory does not grow with their number. After every operation of a
    batch its record is written; a run that was killed repeats one reference pass and goes on.

    Processes that share the work take turns at the operations; each looks at the reference itself.

    Raises:
        Interrupted: A signal asked to stop.
    """
    records = SavedRecords(folder=subject.progress_folder, identity=_identity(subject, probe))
    replay = Replay(subject.network, subject.scales, quantized=subject.direction == "all_but")
    team = subject.team
    own = (REFERENCE, *subject.names[team.rank :: team.size])
    kept: dict[str, list[Record]] = {name: [] for name in own}
    with torch.no_grad():
        for name, record in subject.progress.track(
            _visits(subject, probe, replay, records, own),
            "sensitivity",
            total=subject.num_batches * len(own),
        ):
            kept[name].append(record)
    return _together(team.gather(kept), subject)


def _together(parts: list[dict[str, list[Record]]], subject: Subject[B]) -> Walk:
    """The walk of all processes; they have the reference in common."""
    found = {name: records for part in reversed(parts) for name, records in part.items()}
    in_order = {name: found[name] for name in (REFERENCE, *subject.names)}
    return Walk(
        records=in_order,
        seconds=max(_total(part, _SECONDS) for part in parts),
        passes=_total(in_order, _PASSES) / max(1, len(in_order[REFERENCE])),
    )


def _total(part: Mapping[str, list[Record]], key: str) -> float:
    return sum(float(record[key]) for records in part.values() for record in records)


def _visits(
    subject: Subject[B],
    probe: Probe[B, S],
    replay: Replay,
    records: SavedRecords,
    names: Sequence[str],
) -> Iterator[tuple[str, Record]]:
    for number, batch in enumerate(subject.batches):
        found = {name: records.read(f"{number:04d}-{name}") for name in names}
        pending = [name for name in names if found[name] is None]
        yield from ((name, record) for name, record in found.items() if record is not None)
        if not pending:
            continue
        for name, record in _looks(subject, probe, replay, batch, pending):
            subject.progress.status(name)
            records.write(f"{number:04d}-{name}", record)
            yield name, record
            if subject.progress.should_stop():
                raise Interrupted(signal.SIGTERM)


def _looks(
    subject: Subject[B], probe: Probe[B, S], replay: Replay, batch: B, pending: list[str]
) -> Iterator[tuple[str, Record]]:
    def look(network: nn.Module) -> S:
        return probe.look(network, batch)

    start = time.perf_counter()
    reference = replay.record(look)
    in_float = reference if subject.direction == "only" else replay.in_float(look)
    if REFERENCE in pending:
        passes = 1.0 if subject.direction == "only" else 2.0
        yield REFERENCE, _timed(probe.keep(reference, in_float), start, passes)
    for name in pending:
        if name == REFERENCE:
            continue
        start = time.perf_counter()
        record = probe.keep(replay.switched(name, look), in_float)
        yield name, _timed(record, start, replay.computed_share(name))


def _timed(record: Record, start: float, passes: float) -> Record:
    seconds = np.float64(time.perf_counter() - start)
    return {**record, _SECONDS: np.asarray(seconds), _PASSES: np.asarray(passes)}


def _identity(subject: Subject[B], probe: Probe[B, S]) -> str:
    named = {
        "scales": subject.scales.to_document(),
        "direction": subject.direction,
        "probe": probe.name,
        "seed": subject.seed,
    }
    return sha256_bytes(canonical_json(named).encode())
