"""Settings of ``partial_quant``, and what can be known to be wrong before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from quantpipe.errors import ArtifactError, ConfigurationError
from quantpipe.files import sha256_file
from quantpipe.given_files import require_file
from quantpipe.identity import identity
from quantpipe.quantization.number_format import CALIBRATED
from quantpipe.schema import Between, Count, ExecutionOnly, Fraction, Positive
from quantpipe.settings.data import BatchSize, DataSettings, Split, check_data, data_content
from quantpipe.settings.engine import (
    EngineSettings,
    Opset,
    check_engine,
    engine_platform,
    resolved_opset,
)
from quantpipe.settings.model import ModelSettings, family_of


@dataclass(frozen=True, kw_only=True)
class LatencySettings:
    """How plans are timed."""

    batch_size: BatchSize
    num_warmup: Count
    num_runs: Annotated[int, Between(1)]
    opset: Opset


@dataclass(frozen=True, kw_only=True)
class PartialQuantConfig:
    """Settings of the stage; see ``conf/stage/partial_quant.yaml``.

    Images and engine name the result only where they are used: ``content`` sees to that.
    """

    model: ModelSettings
    data: Annotated[DataSettings, ExecutionOnly()]
    engine: Annotated[EngineSettings, ExecutionOnly()]
    objective: Literal["accuracy", "latency"]
    quant_boundary: Literal["auto"] | int
    max_map_drop: Fraction | None
    when_unsure: Literal["int8", "search"]
    max_latency_ratio: Positive | None
    max_latency_ms: Positive | None
    table_file: Path | None
    plan_file: Path | None
    split: Split
    num_images: Annotated[int | None, Between(1)]
    batch_size: BatchSize
    num_resamples: Annotated[int, Between(100, 100_000)]
    latency: Annotated[LatencySettings, ExecutionOnly()]

    def __post_init__(self) -> None:
        boundary = self.quant_boundary
        if boundary != "auto" and boundary < 0:
            raise ConfigurationError(f"{boundary} is not at least 0", path="quant_boundary")
        _check_exclusive(self)
        _check_budgets(self)

    @property
    def by_latency(self) -> bool:
        """Whether the engine's latency decides."""
        return self.objective == "latency"

    @property
    def searches(self) -> bool:
        """Whether plans are measured on images."""
        return self.plan_file is None and self.quant_boundary == "auto"


def _check_exclusive(config: PartialQuantConfig) -> None:
    given = config.plan_file is not None
    if given and config.table_file is not None:
        raise ConfigurationError(
            "a plan is given, which needs no ranking", path="table_file", hint="set it to null"
        )
    if config.quant_boundary != "auto" and (given or config.by_latency):
        what = "a plan is given" if given else "the engine's latency decides"
        raise ConfigurationError(what, path="quant_boundary", hint="set it to auto")
    if given and config.by_latency:
        raise ConfigurationError("a plan is given", path="objective", hint="set it to accuracy")


def _check_budgets(config: PartialQuantConfig) -> None:
    times = [n for n in ("max_latency_ratio", "max_latency_ms") if getattr(config, n) is not None]
    if times and not config.by_latency:
        hint = "set objective=latency, or this to null"
        raise ConfigurationError("is for objective=latency", path=times[0], hint=hint)
    if len(times) == 2:
        hint = "set one of them to null"
        raise ConfigurationError("max_latency_ratio is set too", path=times[1], hint=hint)
    if config.searches and not times and config.max_map_drop is None:
        hint = "give the largest loss of mAP, as in max_map_drop=0.003"
        hint += ", or max_latency_ratio=1.2" if config.by_latency else ", or a quant_boundary"
        raise ConfigurationError("nothing bounds the search", path="max_map_drop", hint=hint)


def check(config: PartialQuantConfig) -> None:
    """Refuses a boundary past the last operation of the model; finds what is missing here."""
    operations = family_of(config.model).operations(config.model)
    boundary = config.quant_boundary
    if boundary != "auto" and operations is not None and boundary >= len(operations):
        raise ConfigurationError(
            f"{boundary} is past the last of the model's {len(operations)} operations",
            path="quant_boundary",
            hint=f"give 0 to {len(operations) - 1}",
        )
    for name in ("table_file", "plan_file"):
        path: Path | None = getattr(config, name)
        if path is not None:
            require_file(path, ArtifactError, f"see partial_quant.{name}")
    if config.searches:
        check_data(config.data)
    if config.by_latency:
        check_engine(config.engine, CALIBRATED.name)
        check_engine(config.engine, config.engine.float_precision)
        latency_opset(config)


def latency_opset(config: PartialQuantConfig) -> int:
    """The opset of the graphs that are timed."""
    return resolved_opset(config.latency.opset, config.engine.name, path="latency.opset")


def content(config: PartialQuantConfig, memo: Path) -> Mapping[str, Any]:
    """The files that the configuration names, and of images and engine what is used."""
    found: dict[str, Any] = {
        name: sha256_file(path)
        for name, path in (("table_file", config.table_file), ("plan_file", config.plan_file))
        if path is not None
    }
    if config.searches:
        digests = data_content(config.data, (config.split,), memo)
        found["data"] = {"settings": identity(config.data), **digests}
    if config.by_latency:
        timing = {"engine": identity(config.engine), "latency": identity(config.latency)}
        found["latency"] = {**vars(engine_platform(config.engine)), **timing}
    return found
