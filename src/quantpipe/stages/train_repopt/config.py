"""Settings of ``train_repopt``, and what can be known to be wrong before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpipe.detector.released import READING
from quantpipe.errors import ArtifactError, ConfigurationError, nearest
from quantpipe.files import sha256_file
from quantpipe.given_files import require_file
from quantpipe.schema import Positive
from quantpipe.settings.data import data_content
from quantpipe.settings.model import ModelSettings, family_of, require_loss_of
from quantpipe.settings.training import Epochs, TrainingSettings, check_training


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """The hyper-search: the same schedule as the training, its own length and rate."""

    epochs: Epochs
    lr: Positive


@dataclass(frozen=True, kw_only=True)
class TrainRepoptConfig(TrainingSettings):
    """Settings of the stage; see ``conf/stage/train_repopt.yaml``."""

    model: ModelSettings
    form: str
    checkpoint: Path | None
    scales: Path | None
    write_state_dict: bool
    search: SearchSettings

    def __post_init__(self) -> None:
        forms = family_of(self.model).forms
        if not forms:
            return
        require_loss_of(self.model.family, self.loss, path="loss")
        if self.form not in forms:
            raise ConfigurationError(
                f"{self.form!r} is not one of {', '.join(forms)}",
                path="form",
                hint=nearest(self.form, forms),
            )


def check(config: TrainRepoptConfig) -> None:
    """Finds missing data and files, a missing library, and a batch that cannot be shared."""
    check_training(config)
    for name in ("checkpoint", "scales"):
        path = getattr(config, name)
        if path is not None:
            require_file(path, ArtifactError, f"see train_repopt.{name}")


def content(config: TrainRepoptConfig, memo: Path) -> Mapping[str, Any]:
    """The data and the files that the configuration names."""
    named: dict[str, Any] = {"data": data_content(config.data, ("train", "val"), memo)}
    for name in ("checkpoint", "scales"):
        path = getattr(config, name)
        named[name] = None if path is None else sha256_file(path)
    if config.checkpoint is not None:
        named["reading"] = READING
    return named
