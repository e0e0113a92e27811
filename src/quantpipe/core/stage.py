"""What a stage is: a configuration type, typed files in and out, and a function between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar

from quantpipe.core.artifact import Artifact, ArtifactKind
from quantpipe.progress import Progress

C = TypeVar("C")

Inputs = Mapping[str, Artifact]
Outputs = Mapping[str, Path]
Metrics = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Input:
    """An edge that a stage takes: the kinds it accepts, and whether it can do without."""

    kinds: frozenset[ArtifactKind]
    required: bool = True


@dataclass(frozen=True, kw_only=True)
class Output:
    """A file that a stage writes: always, or (``required=False``) where there is something to."""

    kind: ArtifactKind
    file: str
    required: bool = True


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a running step knows besides its configuration and its files.

    Attributes:
        step: Name of the step.
        seed: Seed of every random choice.
        device: ``cpu`` or ``cuda``, as torch names it.
        progress: Bars, notes and the question whether to stop.
        progress_folder: Kept between runs until the step is published: long work resumes here.
        materialize: Returns the folder whose content an identity names, building it at most once.
        memo: A folder for what only saves time, whoever made it and for whichever step; no result
            may depend on it, and it may be gone the next time.
    """

    step: str
    seed: int
    device: str
    progress: Progress
    progress_folder: Path
    materialize: Callable[[Mapping[str, Any], Callable[[Path], None]], Path]
    memo: Path

    def provenance(self, **more: Any) -> dict[str, Any]:
        """What a checkpoint says of its making."""
        return {"step": self.step, "seed": self.seed, **more}


def _nothing_more(config: Any, memo: Path) -> Mapping[str, Any]:  # noqa: ARG001
    return {}


def _nothing_to_check(config: Any) -> None:
    """Types and ranges are all there is to check."""


def _any_wiring(config: Any, kinds: Mapping[str, ArtifactKind]) -> None:
    """The declared inputs are all there is to check."""


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[C]):
    """One kind of work.

    Attributes:
        name: As in ``conf/stage/<name>.yaml``.
        version: Raised whenever the same configuration and inputs would give another result.
        config_type: Frozen dataclass without defaults.
        inputs: Edges by name.
        outputs: Files by name.
        any_inputs: If set, further inputs of any name are taken, of these kinds.
        run: Reads inputs, writes every output, returns metrics that fit in JSON.
        check: Raises :class:`~quantpipe.errors.QuantpipeError` for what can be known to be wrong
            before any work; fast, reads as little as it can.
        companion_prefixes: An input named with one of these before the name of another means
            nothing without that one, and goes when it goes.
        check_wiring: Told the configuration and the kind of every input that is wired; raises
            :class:`~quantpipe.errors.ConfigurationError` with the input's name as ``path``.
        content: Digests of what the configuration names by path, and of the libraries and the
            hardware that the result depends on. Its second argument is a folder in which it may
            remember digests of files that do not change.
    """

    name: str
    version: int
    config_type: type[C]
    inputs: Mapping[str, Input] = field(default_factory=dict)
    outputs: Mapping[str, Output]
    any_inputs: Input | None = None
    run: Callable[[C, Inputs, Outputs, Context], Metrics]
    check: Callable[[C], None] = _nothing_to_check
    companion_prefixes: tuple[str, ...] = ()
    check_wiring: Callable[[C, Mapping[str, ArtifactKind]], None] = _any_wiring
    content: Callable[[C, Path], Mapping[str, Any]] = _nothing_more


def imported(module: str) -> Callable[[Any, Inputs, Outputs, Context], Metrics]:
    """The function ``run`` of a module that is imported when it is first called.

    What a stage computes with takes seconds to import; configurations are checked, and finished
    results reused, without it.
    """

    def run(config: Any, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
        metrics: Metrics = import_module(module).run(config, inputs, outputs, context)
        return metrics

    return run


def takes(*kinds: ArtifactKind) -> Input:
    """An input that must be wired."""
    return Input(kinds=frozenset(kinds))


def may_take(*kinds: ArtifactKind) -> Input:
    """An input that may be left out."""
    return Input(kinds=frozenset(kinds), required=False)
