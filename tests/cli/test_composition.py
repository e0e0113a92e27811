"""What an installed plugin registered may be chosen; no configuration names other code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.wrong_commands import RECIPE
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from quantpipe.cli.composition import check_composition, read_arguments
from quantpipe.errors import ConfigurationError

SEARCH: dict[str, Any] = {
    "_target_": "hydra_plugins.made_up.Search",
    "sampler": {"_target_": "made_up.samplers.Random", "seed": None},
    "custom_search_space": None,
    "setup": None,
}
REFUSED = "is refused: a configuration cannot name code to run"


@pytest.fixture(autouse=True)
def plugin() -> Iterator[None]:
    """A plugin that registers a sweeper with a sampler from a library, as Optuna's does."""
    store = ConfigStore.instance()
    store.store(group="hydra/sweeper", name="made_up", node=SEARCH, provider="made_up")
    yield
    del store.repo["hydra"]["sweeper"]["made_up.yaml"]


def composed(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> DictConfig:
    monkeypatch.setattr(sys, "argv", ["quantpipe", "-m", *overrides])
    return check_composition(read_arguments())


def recipe(folder: Path, sweeper: str) -> tuple[str, ...]:
    (folder / "pipelines").mkdir()
    text = RECIPE.replace("  - ptq\n", "  - ptq\n  - override /hydra/sweeper: made_up\n")
    (folder / "pipelines" / "mine.yaml").write_text(f"{text}hydra: {{sweeper: {sweeper}}}\n")
    return ("--config-dir", str(folder), "pipelines=mine")


def test_what_a_plugin_registered_is_hydras_business(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = composed(monkeypatch, "hydra/sweeper=made_up", "hydra.sweeper.sampler.seed=3")
    assert found.hydra.sweeper.sampler._target_ == "made_up.samplers.Random"
    chosen = composed(monkeypatch, *recipe(tmp_path, "{sampler: {seed: 4}}"))
    assert chosen.hydra.sweeper.sampler.seed == 4


@pytest.mark.parametrize(
    "sweeper",
    [
        "{sampler: {_target_: os.abort}}",
        "{sampler: {_target_: made_up.samplers.os.abort}}",
        "{sampler: {seed: {_target_: os.abort}}}",
        "{_target_: hydra_plugins.made_up.os.abort}",
        "{custom_search_space: os.abort}",
        "{setup: [touch canary]}",
    ],
)
def test_a_recipe_names_no_code_for_a_plugin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sweeper: str
) -> None:
    with pytest.raises(ConfigurationError, match=REFUSED):
        composed(monkeypatch, *recipe(tmp_path, sweeper))


def test_what_is_registered_is_trusted_in_its_own_place_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigurationError, match=REFUSED):
        composed(monkeypatch, "+hydra.callbacks.x._target_=made_up.samplers.Random")


def test_what_a_plugin_runs_as_text_is_given_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = ("hydra/sweeper=made_up", "hydra.sweeper.custom_search_space=mine.space")
    found = composed(monkeypatch, *chosen)
    assert found.hydra.sweeper.custom_search_space == "mine.space"


def test_the_time_may_name_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    found = composed(monkeypatch, "run_dir='runs/${now:%Y}'")
    assert str(found.run_dir).startswith("runs/20")
