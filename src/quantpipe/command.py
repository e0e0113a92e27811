"""The command line: Hydra composes, the runner runs, every fault becomes one line and a code.

The only importer of hydra. Nothing heavy is imported before there is work to do.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from quantpipe.config import Plan, read_plan
from quantpipe.errors import ConfigurationError, QuantpipeError, nearest
from quantpipe.run import report_sweep, run_plan

_INTERNAL_ERROR = 1
_BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def main() -> NoReturn:
    """Runs the command line and exits with its code."""
    # Hydra would print a summary of its own and exit with 1; errors are told here instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    warnings.filterwarnings("ignore", module=r"hydra\..*")
    entry = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
    sys.exit(_exit_code(entry(_task)))


def config_folder() -> Path:
    """The shipped configuration: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def _exit_code(work: Callable[[], Any]) -> int:
    try:
        work()
    except QuantpipeError as error:
        return _tell(error)
    except (HydraException, OmegaConfBaseException) as error:
        return _tell(_from_hydra(error))
    except BrokenPipeError:
        # Whoever read the output has enough of it (``quantpipe --help | head``).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("quantpipe: interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except Exception as error:  # noqa: BLE001 - the last line of defence: one line, or the traceback
        return _tell_internal(error)
    return 0


def _tell(error: QuantpipeError) -> int:
    if "debug=true" in sys.argv:
        traceback.print_exception(error)
    print(f"quantpipe: error: {error}", file=sys.stderr)  # noqa: T201
    return error.exit_code


def _tell_internal(error: Exception) -> int:
    if "debug=true" in sys.argv:
        traceback.print_exception(error)
    text = " ".join(str(error).split()) or "no message"
    kind = type(error).__name__
    line = f"quantpipe: internal error: {kind}: {text}; run with debug=true for the traceback"
    print(line, file=sys.stderr)  # noqa: T201
    return _INTERNAL_ERROR


def _task(config: DictConfig) -> None:
    """One job: a run of its own, or one of a sweep."""
    overrides = list(HydraConfig.get().overrides.task)
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        run_plan(read_plan(config, overrides))
        return
    config.run_dir = HydraConfig.get().runtime.output_dir
    code = _exit_code(lambda: run_plan(read_plan(config, overrides)))
    if code >= 128:  # a signal ends the sweep, a failed job does not
        sys.exit(code)


class SweepCallback(Callback):
    """Checks every job of a sweep before the first runs, and compares them after the last."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Composes and checks each job; nothing is written yet."""
        if config.hydra.sweeper._target_ != _BASIC_SWEEPER:
            return  # other sweepers choose their jobs as they go
        code = _exit_code(lambda: [_check_job(config, job) for job in _jobs(config)])
        if code:
            sys.exit(code)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Prints the comparison table and writes ``sweep.json``; exits with the worst code."""
        codes: list[int] = []
        code = _exit_code(lambda: codes.append(report_sweep(Path(config.hydra.sweep.dir))))
        code = max([code, *codes])
        if code:
            sys.exit(code)


def _jobs(config: DictConfig) -> Iterable[list[str]]:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    overrides = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    parsed = OverridesParser.create().parse_overrides([str(text) for text in overrides])
    batches = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [list(job) for batch in batches for job in batch]


def _check_job(config: DictConfig, overrides: list[str]) -> Plan:
    loader: ConfigLoader = GlobalHydra.instance().config_loader()
    job = loader.load_sweep_config(config, overrides)
    task = OmegaConf.masked_copy(job, [str(key) for key in job if key != "hydra"])
    return read_plan(task, overrides)


def _from_hydra(error: Exception) -> ConfigurationError:
    """Hydra's and OmegaConf's own messages in one line, with the nearest key where one is wrong."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = " ".join((str(error).splitlines() or ["unknown fault"])[0].split())
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        key = cause.full_key or str(cause.key)
        known = _known_keys(key)
        return ConfigurationError("there is no such setting", path=key, hint=nearest(key, known))
    if isinstance(cause, OmegaConfBaseException) and cause is not error:
        text = f"{text} ({(str(cause).splitlines() or [''])[0]})"
    options = _options_of(str(error))
    return ConfigurationError(text.rstrip("."), hint=options)


def _known_keys(key: str) -> list[str]:
    """The dotted keys that stand beside ``key`` in the composed configuration."""
    config = _composed_without_faults()
    parent, _, _ = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if not isinstance(node, DictConfig):
        parent, node = "", config
    names = [str(name) for name in node if name != "hydra"]
    return [f"{parent}.{name}" if parent else name for name in names]


def _composed_without_faults() -> DictConfig:
    """What the group choices of the command line alone compose to."""
    loader: ConfigLoader = GlobalHydra.instance().config_loader()
    groups = set(loader.list_groups(""))
    choices = [text for text in sys.argv[1:] if text.partition("=")[0].lstrip("+~") in groups]
    try:
        return loader.load_configuration("config", overrides=choices, run_mode=RunMode.RUN)
    except (HydraException, OmegaConfBaseException):
        return loader.load_configuration("config", overrides=[], run_mode=RunMode.RUN)


def _options_of(message: str) -> str | None:
    """The nearest of the options that Hydra lists after ``Available options in '<group>':``."""
    head, found, listed = message.partition("Available options in")
    if not found:
        return None
    wanted = head.partition("'")[2].partition("'")[0].rpartition("/")[2]
    options = [line.strip() for line in listed.splitlines()[1:] if line.startswith("\t")]
    return nearest(wanted, options)
