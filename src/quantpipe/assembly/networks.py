"""From files to networks: float, and with the quantization of a scale cache and a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from quantpipe.core.stage import Inputs
from quantpipe.detector.checkpoint import Checkpoint, load_checkpoint, restore_detector
from quantpipe.detector.families.yolov6.architecture import operation_names
from quantpipe.detector.families.yolov6.network import Detector, fold_batch_norm
from quantpipe.errors import ArtifactError
from quantpipe.quantization.precision_plan import PrecisionPlan, load_plan
from quantpipe.quantization.scale_cache import ScaleCache, load_scales
from quantpipe.quantization.simulation.network import quantize


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A checkpoint, its network, and where there are scales the network that they quantize.

    Attributes:
        checkpoint: As it stands in the file.
        network: Float, in evaluation mode.
        scales: None for a float model.
        plan: None where every operation with a range is quantized.
        quantized: Fake-quantized copy of ``network``; the network itself for a float model.
    """

    checkpoint: Checkpoint
    network: Detector
    scales: ScaleCache | None
    plan: PrecisionPlan | None
    quantized: nn.Module


def load_inputs(inputs: Inputs, device: str) -> Loaded:
    """Loads the ``checkpoint`` and, where wired, the ``scales`` and the ``plan`` of a step.

    Raises:
        ArtifactError: A file is damaged, or the scales are of other weights.
    """
    scales = inputs.get("scales")
    plan = inputs.get("plan")
    return load(
        inputs["checkpoint"].path,
        scales=None if scales is None else scales.path,
        plan=None if plan is None else plan.path,
        device=device,
    )


def load(checkpoint: Path, *, scales: Path | None, plan: Path | None, device: str) -> Loaded:
    """Loads a model from its files."""
    whole = load_checkpoint(checkpoint)
    network = restore_detector(whole).to(device)
    cache = None if scales is None else load_scales(scales)
    precision = None if plan is None else load_plan(plan)
    quantized: nn.Module = network
    if cache is not None:
        cache.require_weights(whole.weights_digest, path=scales)
        if precision is not None:
            precision.require_operations(operation_names(whole.architecture), path=plan)
        quantized = quantize(network, cache, precision)
    return Loaded(
        checkpoint=whole, network=network, scales=cache, plan=precision, quantized=quantized
    )


def deployed(loaded: Loaded) -> Loaded:
    """The same with BatchNorm folded, as scales are only ever made for: the float baseline."""
    if loaded.checkpoint.form == "deploy":
        return loaded
    network = fold_batch_norm(loaded.network)
    return replace(loaded, network=network, quantized=network)


def quantized_as(loaded: Loaded, plan: PrecisionPlan) -> nn.Module:
    """A copy of the float network with the operations of a plan fake-quantized."""
    assert loaded.scales is not None
    return quantize(loaded.network, loaded.scales, plan)


def with_weights(checkpoint: Checkpoint, network: nn.Module, **changes: object) -> Checkpoint:
    """The checkpoint with the weights of ``network``, on the CPU."""
    tensors = {n: t.detach().cpu().contiguous() for n, t in network.state_dict().items()}
    return replace(checkpoint, tensors=tensors, **changes)  # type: ignore[arg-type]


def require_classes(checkpoint: Checkpoint, class_names: Sequence[str], path: Path) -> None:
    """Refuses a checkpoint of other classes than the data set's.

    Raises:
        ArtifactError: Names both.
    """
    if tuple(checkpoint.class_names) != tuple(class_names):
        raise ArtifactError(
            f"the checkpoint knows the classes {', '.join(checkpoint.class_names)}, "
            f"the data set {', '.join(class_names)}",
            path=path,
            hint="choose a checkpoint trained on these classes, or train without checkpoint=",
        )
