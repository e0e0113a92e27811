"""What a stage is: a configuration type, typed files in and out, and a function between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    """An edge that a stage takes.

    Attributes:
        kinds: Those that it accepts.
        required: Whether the stage cannot do without.
        many: Whether it takes one for every variant of the recipe; a step then has inputs called
            ``<input>.<variant>``.
        lineage: Whether the stage looks at what the artifact was made from, so that this names
            the result too.
    """

    kinds: frozenset[ArtifactKind]
    required: bool = True
    many: bool = False
    lineage: bool = False


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a stage writes: always, or (``required=False``) where there is something to."""

    kind: ArtifactKind
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


def _no_charts(step: str, artifacts: Inputs, run: Sequence[Inputs]) -> Sequence[Any]:  # noqa: ARG001
    return ()


@dataclass(frozen=True, kw_only=True)
class PerVariant:
    """How a stage takes part in the table of variants: one step for every variant.

    Attributes:
        input: What a variant comes in by, from the stage before, or from its model.
        output: What it goes out by, to the next.
        settings: Values of a variant's row to those that replace the step's own.
    """

    input: str
    output: str
    settings: Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[C]):
    """One kind of work.

    Attributes:
        name: As in ``conf/stage/<name>.yaml``.
        version: Raised whenever the same configuration and inputs would give another result.
        config_type: Frozen dataclass without defaults.
        inputs: Edges by name.
        outputs: What it makes, by name.
        run: Reads inputs, writes every output, returns metrics that fit in JSON. It is told the
            first file of each output; the others of its kind go beside it.
        check: Raises :class:`~quantpipe.errors.QuantpipeError` for what can be known to be wrong
            before any work; fast, reads as little as it can.
        content: Digests of what the configuration names by path, and of the libraries and the
            hardware that the result depends on. Its second argument is a folder in which it may
            remember digests of files that do not change.
        per_variant: Set where the stage works for each variant by itself.
        charts: Pictures of a step's result for the report: told the step's name, what it made, and
            what every step made.
    """

    name: str
    version: int
    config_type: type[C]
    inputs: Mapping[str, Input] = field(default_factory=dict)
    outputs: Mapping[str, Output]
    run: Callable[[C, Inputs, Outputs, Context], Metrics]
    check: Callable[[C], None] = _nothing_to_check
    content: Callable[[C, Path], Mapping[str, Any]] = _nothing_more
    per_variant: PerVariant | None = None
    charts: Callable[[str, Inputs, Sequence[Inputs]], Sequence[Any]] = _no_charts

    def input_of(self, name: str) -> Input | None:
        """The declared edge of an input, that of one variant (``<input>.<variant>``) included."""
        group, _, variant = name.partition(".")
        found = self.inputs.get(group)
        return found if found is not None and found.many == bool(variant) else None


def imported(module: str, function: str = "run") -> Callable[..., Any]:
    """A function of a module that is imported when it is first called.

    What a stage computes with takes seconds to import; configurations are checked, and finished
    results reused, without it.
    """

    def call(*arguments: Any) -> Any:
        return getattr(import_module(module), function)(*arguments)

    return call


def takes(*kinds: ArtifactKind, lineage: bool = False) -> Input:
    """An input that must be wired."""
    return Input(kinds=frozenset(kinds), lineage=lineage)


def may_take(*kinds: ArtifactKind) -> Input:
    """An input that may be left out."""
    return Input(kinds=frozenset(kinds), required=False)
