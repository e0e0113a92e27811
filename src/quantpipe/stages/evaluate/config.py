"""Settings of ``evaluate``, and what can be known to be wrong before any work."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from quantpipe.export.tolerance import MeanTolerance
from quantpipe.schema import Between, Count, Fraction, Positive
from quantpipe.settings.data import BatchSize, DataSettings, check_data, data_content
from quantpipe.versions import installed_versions

VARIANTS = "variants"
"""The input that takes an engine, or a model, for every variant."""

REFERENCE = "fp32"
"""The variant whose confident detections the others are held against."""


@dataclass(frozen=True, kw_only=True)
class ParitySettings:
    """Images that engine and network both see, and what passes.

    Attributes:
        num_images: The first of the validation images.
        fp32: For FP32 engines.
        half: For FP16 and bf16 engines.
        int8_limit: Mean distance of an INT8 engine from the float network, in those of the
            fake-quantized network.
        min_agreement: Of detections, for engines that give no predictions.
    """

    num_images: Annotated[int, Between(1)]
    fp32: MeanTolerance
    half: MeanTolerance
    int8_limit: Positive
    min_agreement: Fraction


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of the stage; see ``conf/stage/evaluate.yaml``."""

    data: DataSettings
    confidence: Fraction
    iou: Fraction
    max_detections: Annotated[int, Between(1, 10_000)]
    accuracy_batch: BatchSize
    latency_batches: Annotated[tuple[int, ...], Between(1, 1024)]
    num_warmup: Count
    num_runs: Annotated[int, Between(1)]
    num_queued: Annotated[int, Between(1)]
    parity: ParitySettings
    num_examples: Annotated[int, Between(0, 50)]


def check(config: EvaluateConfig) -> None:
    """Finds missing data."""
    check_data(config.data)


def content(config: EvaluateConfig, memo: Path) -> Mapping[str, Any]:
    """The images, and the machine whose speed is measured."""
    from quantpipe.engines.hardware import nvidia_gpu, processor

    return {
        "data": data_content(config.data, ("val",), memo),
        "hardware": [processor(), len(os.sched_getaffinity(0)), nvidia_gpu()],
        "libraries": installed_versions(("torch", "onnxruntime")),
    }
