"""Settings of ``calibrate``, and what can be known to be wrong before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from quantpipe.detector.released import READING
from quantpipe.errors import ArtifactError, ConfigurationError
from quantpipe.files import sha256_file
from quantpipe.given_files import require_file
from quantpipe.schema import Between, Positive
from quantpipe.settings.data import BatchSize, DataSettings, Split, check_data, data_content
from quantpipe.settings.device import resolve_device
from quantpipe.settings.training import TrainerSettings, check_ranks

Method = Literal["max", "percentile", "entropy", "mse", "auto"]


_LEAVE_OUT = "leave one of the two out"


WeightRounding = Literal["nearest", "hessian"]


@dataclass(frozen=True, kw_only=True)
class AdjustmentSettings:
    """What to fit to, and what the methods have to be told; see ``conf/stage/calibrate.yaml``."""

    num_images: Annotated[int, Between(1)]
    num_positions: Annotated[int, Between(1)]
    damping: Positive


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """Settings of the stage; see ``conf/stage/calibrate.yaml``."""

    trainer: TrainerSettings
    data: DataSettings
    split: Split
    method: Method | None
    percentile: Annotated[float | None, Between(0, 100, open_low=True)]
    weight_method: Literal["max", "mse"]
    num_images: Annotated[int, Between(1)]
    batch_size: BatchSize
    implementation: Literal["quantpipe", "pytorch_quantization"]
    from_checkpoint: Path | None
    bootstrap: Annotated[int, Between(0, 100_000)]
    max_spread: Annotated[float, Between(0, open_low=True)]
    bias_correction: bool
    weight_rounding: WeightRounding
    adjustment: AdjustmentSettings

    def __post_init__(self) -> None:
        if self.method == "percentile" and self.percentile is None:
            raise ConfigurationError(
                "is not set", path="percentile", hint="give one, as in calibrate.percentile=99.99"
            )
        if self.method not in (None, "percentile") and self.percentile is not None:
            raise ConfigurationError(
                f"{self.percentile:g} means nothing to method={self.method}",
                path="percentile",
                hint=_LEAVE_OUT,
            )
        if self.bootstrap == 1:
            raise ConfigurationError(
                "one resample has no spread", path="bootstrap", hint="take 200, or 0 for none"
            )
        if self.from_checkpoint is not None or self.implementation == "pytorch_quantization":
            self._refuse_what_images_must_be_counted_for()

    def _refuse_what_images_must_be_counted_for(self) -> None:
        key = "implementation" if self.from_checkpoint is None else "from_checkpoint"
        if self.method == "auto":
            raise ConfigurationError(
                f"auto does not go with {key}={getattr(self, key)}", path="method", hint=_LEAVE_OUT
            )
        if self.bootstrap:
            raise ConfigurationError(
                f"{self.bootstrap} resamples do not go with {key}={getattr(self, key)}",
                path="bootstrap",
                hint=_LEAVE_OUT,
            )


def method_of(config: CalibrateConfig) -> Method:
    """The method that is set, or else percentile where one is given, and max where none is."""
    return config.method or ("max" if config.percentile is None else "percentile")


def check(config: CalibrateConfig) -> None:
    """Finds missing data and files, and what pytorch-quantization cannot do on a processor."""
    check_data(config.data)
    check_ranks(config.batch_size, config.trainer)
    given = config.from_checkpoint
    if given is not None:
        require_file(given, ArtifactError, "see calibrate.from_checkpoint")
    by_reference = config.implementation == "pytorch_quantization" and config.method == "mse"
    if by_reference and resolve_device("auto") != "cuda":
        raise ConfigurationError(
            "pytorch-quantization searches the least squared error on CUDA only",
            path="implementation",
            hint="take calibrate.implementation=quantpipe",
        )


def content(config: CalibrateConfig, memo: Path) -> Mapping[str, Any]:
    """The images, and the file that the configuration names."""
    named: dict[str, Any] = {"data": data_content(config.data, (config.split,), memo)}
    if config.from_checkpoint is not None:
        named |= {"from_checkpoint": sha256_file(config.from_checkpoint), "reading": READING}
    return named
