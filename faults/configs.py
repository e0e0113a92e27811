"""Configurations that are wrong: every setting in turn, and whole command lines (29, 30, 33)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from faults.cases import Case, Place, Prepared, run_cases
from faults.commands import Command, run_commands
from faults.fork_server import ForkServer
from faults.tally import Tally
from faults.wrong_commands import HOSTILE, RECIPE, WRONG
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from quantpipe.cli.composition import config_folder
from quantpipe.cli.config import read_run
from quantpipe.errors import ConfigurationError

_ROWS = (29, 30, 33)
_NAN, _INFINITE = float("nan"), float("inf")
# Groups that steps refer to: wrong at their own place, not again in every step.
_REPEATED = frozenset({"data", "model", "engine", "trainer", "loss", "latency_batches"})
# Texts that may be anything, or a number instead.
_FREE = frozenset({"name", "run_dir", "cache_dir", "runs", "quant_boundary"})

Where = tuple[str, ...]


def run(seed: int, share: float) -> Tally:
    """Tries a share of them."""
    tally = run_cases("configs", [*_wrong_settings()], seed, share)
    tally.rows = _ROWS
    with ForkServer() as server:
        run_commands(server, tally, [*_commands()], share)
    return tally


def _wrong_settings() -> Iterator[Case]:
    """Every setting of the default pipeline with values that cannot stand there."""
    composed = _composed()
    for where, value in _settings(composed, ()):
        for wrong in _wrong_values(where, value):
            yield _case(composed, where, wrong)
    for where in _groups(composed, ()):
        yield _case(composed, (*where, "no_such_setting"), 1)
        yield _case(composed, (*where, "_target_"), "os.system", row=29)
        yield _case(composed, (*where, "_partial_"), True, row=29)


def _composed() -> dict[str, Any]:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("config")
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _case(composed: Mapping[str, Any], where: Where, wrong: object, row: int = 30) -> Case:
    def prepare(at: Place) -> Prepared:
        changed: Any = deepcopy(dict(composed))
        node = changed
        for key in where[:-1]:
            node = node[key]
        node[where[-1]] = wrong
        config = OmegaConf.create(changed)
        return lambda: read_run(config, ())

    return Case(
        row=row,
        name=f"{'.'.join(where)} = {wrong!r}",
        prepare=prepare,
        error=ConfigurationError,
        says=(where[-1],),
    )


def _settings(value: Mapping[str, Any], where: Where) -> Iterator[tuple[Where, Any]]:
    for key, inner in value.items():
        if where and key in _REPEATED:
            continue
        if isinstance(inner, Mapping):
            yield from _settings(inner, (*where, key))
        elif not _is_wiring((*where, key)):
            yield (*where, key), inner


def _groups(value: Mapping[str, Any], where: Where) -> Iterator[Where]:
    for key, inner in value.items():
        if isinstance(inner, Mapping) and not (where and key in _REPEATED):
            if not _is_wiring((*where, key)):
                yield (*where, key)
            yield from _groups(inner, (*where, key))


def _is_wiring(where: Where) -> bool:
    return "inputs" in where or where[-1] == "stage"


def _wrong_values(where: Where, value: object) -> Iterator[object]:
    yield {"x": 1}
    if isinstance(value, bool):
        yield from ("maybe", 3, [True], None)
    elif isinstance(value, int | float):
        yield from ("many", _NAN, _INFINITE, -_INFINITE, True, [1])
        yield -1e12
    elif isinstance(value, str) and where[-1] not in _FREE:
        yield from ("nonsense", 3, [value])
    elif isinstance(value, list):
        yield from ("nonsense", 3, [{"x": 1}], [None])


def _commands() -> Iterator[Command]:
    for argument, line in WRONG.items():
        row = 29 if "_target_" in argument or "oc.env" in argument else 30
        yield _command(row, argument, line, argument)
    for place, text in HOSTILE.items():
        for options in ((), ("-m",)):
            yield _recipe(place, text, options)
    for argument, line in _INTERPOLATIONS.items():
        yield _command(29, argument, line, argument)
    install = "pip install 'quantpipe[tensorrt]'"
    for pipeline in ("ptq", "partial_quant", "repopt_qat"):
        arguments = (f"pipelines={pipeline}", "engine=tensorrt")
        yield _command(33, f"no library, {pipeline}", install, *arguments, code=5)
    yield _command(33, "no library, a sweep", install, "-m", "engine=openvino,tensorrt", code=5)


_INTERPOLATIONS = {
    "calibrate.percentile=${oc.env:HOME}": "calibrate.percentile",
    "calibrate.num_images=${oc.decode:'[1,2]'}": "calibrate.num_images",
    "calibrate.num_images=${oc.create:{a:1}}": "calibrate.num_images",
    "calibrate.num_images=${os.system:true}": "calibrate.num_images",
    "calibrate.num_images=${eval:1}": "calibrate.num_images",
    "calibrate.num_images=${calibrate.num_images}": "calibrate.num_images",
    "calibrate.num_images=${calibrate}": "calibrate.num_images",
    "calibrate.num_images=${": "calibrate.num_images=${",
    "calibrate.num_images=???": "calibrate.num_images",
    "model.name=${oc.dict.keys:model}": "model.name",
    "seed=${seed}": "seed",
    "data=${oc.env:HOME}": "data",
}


def _command(row: int, name: str, line: str, *arguments: str, code: int = 2) -> Command:
    return Command(row=row, name=name, prepare=lambda at: arguments, code=code, says=(line,))


def _recipe(place: str, text: str, options: tuple[str, ...]) -> Command:
    """A user's recipe that would have code run."""

    def prepare(at: Place) -> tuple[str, ...]:
        folder = at.root / "own" / "pipelines"
        folder.mkdir(parents=True)
        hostile = text.format(canary=at.outside.canary)
        (folder / "evil.yaml").write_text(f"{RECIPE.partition('calibrate:')[0]}{hostile}\n")
        return (*options, "--config-dir", str(folder.parent), "pipelines=evil")

    return Command(
        row=29,
        name=f"code {place} {' '.join(options)}",
        prepare=prepare,
        code=2,
        says=("is refused: a configuration cannot name code to run",),
    )
