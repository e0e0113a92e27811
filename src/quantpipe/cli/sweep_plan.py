"""A sweep before its first job: every job composed and checked, where each goes, which way is up.

Nothing is written here but the sweep's own folder, once all is found right.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig, OmegaConf, open_dict

from quantpipe.cli.composition import COMPOSITION_FAULTS, override_texts, own_keys
from quantpipe.cli.config import CheckedRun, read_cache_settings, read_run
from quantpipe.cli.explain import explain
from quantpipe.cli.run import require_writable
from quantpipe.cli.sweep_jobs import shared_folder
from quantpipe.errors import ConfigurationError
from quantpipe.report.objective import KEY, Objective

BASIC_SWEEPER = f"{BasicSweeper.__module__}.{BasicSweeper.__name__}"
# A folder named by the time is meant for this sweep alone.
_BY_TIME = "${now:"
_LONGEST_NAME = 255


@dataclass(frozen=True, kw_only=True)
class PlannedJob:
    """A job that is known before the sweeper runs; its name is its folder below the sweep's."""

    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What a sweep will do, where, and what else Hydra has to be told.

    ``jobs`` is empty where the sweeper chooses them as it goes.
    """

    folder: Path
    by_time: bool
    jobs: tuple[PlannedJob, ...]
    objectives: tuple[Objective, ...]
    overrides: tuple[str, ...]


def plan_sweep(config: DictConfig, loader: ConfigLoaderImpl) -> SweepPlan:
    """Checks every job that is known, or one that stands for those that a sweeper will choose.

    Raises:
        QuantpipeError: One line; nothing was written.
    """
    try:
        return _plan(config, loader)
    finally:
        HydraConfig.instance().cfg = None


def _plan(config: DictConfig, loader: ConfigLoaderImpl) -> SweepPlan:
    parsed = _parsed(config)
    _refuse_run_dir(parsed)
    basic = config.hydra.sweeper._target_ == BASIC_SWEEPER
    listed = _every(parsed) if basic else [_representative(parsed)]
    checked = [_checked(config, loader, overrides, n) for n, overrides in enumerate(listed)]
    objectives = checked[0].run.objectives
    if any(job.run.objectives != objectives for job in checked):
        raise ConfigurationError("is not the same for all jobs", path=KEY)
    if not basic and not objectives:
        raise ConfigurationError(
            f"{config.hydra.runtime.choices.get('hydra/sweeper', 'the sweeper')} chooses jobs by "
            "what others reached, and nothing says by which number",
            path=KEY,
            hint="set it, as 'objective=map of ptq'",
        )
    folder = Path(os.path.abspath(_text(config, "hydra.sweep.dir")))  # noqa: PTH100 - not resolved
    raw = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    assert isinstance(raw, dict)
    if basic:
        jobs = _apart(folder, listed, [job.subdir for job in checked])
    elif "${" in str(raw["subdir"]):
        jobs = ()
    else:
        raise shared_folder("0", "1", folder / checked[0].subdir)
    return SweepPlan(
        folder=folder,
        by_time=_BY_TIME in str(raw["dir"]),
        jobs=jobs,
        objectives=objectives,
        overrides=_directions(config, objectives),
    )


def claimed_folder(plan: SweepPlan) -> Path:
    """Makes the sweep's folder; one that is named by the time is this sweep's alone.

    Raises:
        MachineError: It cannot be written.
    """
    folder = plan.folder
    require_writable(folder.parent, "hydra.sweep.dir")
    number = 2
    while True:
        try:
            folder.mkdir(exist_ok=not plan.by_time)
        except FileExistsError:
            folder = plan.folder.with_name(f"{plan.folder.name}_{number}")
            number += 1
        else:
            require_writable(folder, "hydra.sweep.dir")
            return folder


def tell_hydra(given: Sequence[str], overrides: Sequence[str]) -> None:
    """Puts overrides behind those of the command line, which Hydra reads by itself."""
    arguments = sys.argv[1:]
    last = len(arguments)
    if given:
        last -= arguments[::-1].index(given[-1])
    sys.argv[1:] = [*arguments[:last], *overrides, *arguments[last:]]


def quoted(text: str) -> str:
    """A text as a value in an override, whatever it holds."""
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"


@dataclass(frozen=True, kw_only=True)
class _Checked:
    run: CheckedRun
    subdir: str


def _parsed(config: DictConfig) -> list[Override]:
    """The overrides of the recipe's ``hydra.sweeper.params`` and of the command line."""
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    given = [f"{name}={value}" for name, value in params.items()]
    given += override_texts(config.hydra.overrides.task)
    return list(OverridesParser.create().parse_overrides(given))


def _refuse_run_dir(parsed: Sequence[Override]) -> None:
    if any(override.key_or_group == "run_dir" for override in parsed):
        raise ConfigurationError(
            "the jobs of a sweep are put below hydra.sweep.dir",
            path="run_dir",
            hint="set hydra.sweep.dir, and hydra.sweep.subdir for what differs",
        )


def _every(parsed: list[Override]) -> list[list[str]]:
    (batch,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [list(job) for job in batch]


def _representative(parsed: Sequence[Override]) -> list[str]:
    """One job: of everything that is searched, the first value."""
    return [_first(override) for override in parsed]


def _first(override: Override) -> str:
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        return f"{key}={value.start}"
    if override.is_sweep_override():
        return f"{key}={next(iter(override.sweep_string_iterator()))}"
    return f"{key}={override.get_value_element_as_str()}"


def _checked(
    config: DictConfig, loader: ConfigLoaderImpl, overrides: list[str], number: int
) -> _Checked:
    try:
        job = loader.load_sweep_config(config, overrides)
        with open_dict(job):
            job.hydra.job.num = number
            job.hydra.job.id = str(number)
        HydraConfig.instance().set_config(job)
        subdir = _text(job, "hydra.sweep.subdir")
        job.run_dir = os.path.normpath(Path(_text(config, "hydra.sweep.dir")) / subdir)
    except COMPOSITION_FAULTS as error:
        raise explain(error, overrides) from error
    task = OmegaConf.masked_copy(job, own_keys(job))
    if read_cache_settings(task)[0].action != "use":
        hint = "give it without -m"
        raise ConfigurationError("a sweep runs pipelines", path="cache", hint=hint)
    return _Checked(run=read_run(task, overrides), subdir=subdir)


def _text(config: DictConfig, key: str) -> str:
    return str(OmegaConf.select(config, key))


def _apart(
    folder: Path, listed: Sequence[Sequence[str]], subdirs: Sequence[str]
) -> tuple[PlannedJob, ...]:
    """The jobs and their folders.

    Raises:
        ConfigurationError: Two have the same, or a name is too long for any disk.
    """
    seen: dict[str, int] = {}
    jobs = []
    for number, (overrides, subdir) in enumerate(zip(listed, subdirs, strict=True)):
        place = os.path.normpath(folder / subdir)
        if place in seen:
            raise shared_folder(str(seen[place]), str(number), Path(place))
        too_long = [name for name in Path(place).parts if len(os.fsencode(name)) > _LONGEST_NAME]
        if too_long:
            raise ConfigurationError(
                f"job {number} would have a folder of {len(too_long[0])} characters",
                path="hydra.sweep.subdir",
                hint="name less in it",
            )
        seen[place] = number
        name = os.path.relpath(place, folder)
        jobs.append(PlannedJob(name=name, overrides=tuple(overrides)))
    return tuple(jobs)


# Where sweepers say which way is better: by the setting, and how it is written.
_OPTUNA = "direction"
_AS_FLAG = {"optim.maximize": "maximize", "ax_config.experiment.minimize": "minimize"}


def _directions(config: DictConfig, objectives: Sequence[Objective]) -> tuple[str, ...]:
    """What a sweeper must be told so that it looks for more of what more is better of.

    Raises:
        ConfigurationError: It was told another direction.
    """
    sweeper = config.hydra.sweeper
    wanted = [objective.direction for objective in objectives]
    if not wanted:
        return ()
    if _OPTUNA in sweeper:
        key, value = f"hydra.sweeper.{_OPTUNA}", f"[{','.join(wanted)}]"
        found = _plain_directions(sweeper[_OPTUNA])
        _refuse_other(config, key, value, contradicts=found != wanted)
        return (f"{key}={value}",)
    for setting, direction in _AS_FLAG.items():
        if OmegaConf.select(sweeper, setting) is not None:
            key, value = f"hydra.sweeper.{setting}", str(wanted[0] == direction).lower()
            contradicts = str(OmegaConf.select(sweeper, setting)).lower() != value
            _refuse_other(config, key, value, contradicts=contradicts)
            return (f"{key}={value}",)
    return ()


def _plain_directions(value: Any) -> list[str]:
    listed = list(value) if OmegaConf.is_list(value) else [value]
    return [str(getattr(direction, "name", direction)) for direction in listed]


def _refuse_other(config: DictConfig, key: str, value: str, *, contradicts: bool) -> None:
    """What is the sweeper's default may be changed; what the command line says may not."""
    given = any(_key_of(text) == key for text in override_texts(config.hydra.overrides.hydra))
    if given and contradicts:
        hint = f"leave it out: {key}={value} follows from it"
        raise ConfigurationError(f"contradicts {KEY}", path=key, hint=hint)


def _key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+")
