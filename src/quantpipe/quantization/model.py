"""A model from its files: weights, and where it has them ranges and a plan; and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.checkpoint_family import as_deployed, operation_names, restore_detector
from quantpipe.detector.checkpoint_file import load_checkpoint, save_checkpoint
from quantpipe.detector.families.implementation import DetectorNetwork
from quantpipe.errors import ArtifactError
from quantpipe.quantization import model_files
from quantpipe.quantization.precision_plan import PrecisionPlan, load_plan, save_plan
from quantpipe.quantization.scale_cache import ScaleCache, load_scales, save_scales
from quantpipe.quantization.simulation.network import quantize


@dataclass(frozen=True, kw_only=True)
class Model:
    """A checkpoint, its network, and where there are scales the network that they quantize.

    Attributes:
        path: Of the checkpoint; the other files lie beside it.
        checkpoint: As it stands in the file.
        network: Float, in evaluation mode.
        scales: None for a float model.
        plan: None where every operation with a range is quantized.
        quantized: Fake-quantized copy of ``network``; the network itself for a float model.
    """

    path: Path
    checkpoint: Checkpoint
    network: DetectorNetwork
    scales: ScaleCache | None
    plan: PrecisionPlan | None
    quantized: DetectorNetwork

    def require_scales(self) -> ScaleCache:
        """The ranges.

        Raises:
            ArtifactError: The model has none.
        """
        if self.scales is None:
            raise ArtifactError(
                "is a float model without ranges", path=self.path, hint="take one of calibrate"
            )
        return self.scales


def load_model(path: Path, device: str, *, quantized: bool = True) -> Model:
    """Loads the checkpoint at ``path``, and the scales and the plan that lie beside it.

    ``quantized=False`` leaves those two alone: the float model.

    Raises:
        ArtifactError: A file is damaged, or the scales are of other weights.
    """
    checkpoint = load_checkpoint(path)
    network = restore_detector(checkpoint).to(device)
    scales, plan = path.with_name(model_files.SCALES), path.with_name(model_files.PLAN)
    if not (quantized and scales.exists()):
        return Model(
            path=path,
            checkpoint=checkpoint,
            network=network,
            scales=None,
            plan=None,
            quantized=network,
        )
    cache = load_scales(scales)
    cache.require_weights(checkpoint.weights_digest, path=scales)
    precision = load_plan(plan) if plan.exists() else None
    if precision is not None:
        precision.require_operations(operation_names(checkpoint), path=plan)
    return Model(
        path=path,
        checkpoint=checkpoint,
        network=network,
        scales=cache,
        plan=precision,
        quantized=quantize(network, cache, precision),
    )


def save_model(
    path: Path, checkpoint: Checkpoint, scales: ScaleCache, plan: PrecisionPlan | None
) -> None:
    """Writes a quantized model: its checkpoint at ``path``, scales and plan beside it."""
    save_checkpoint(path, checkpoint)
    save_scales(path.with_name(model_files.SCALES), scales)
    if plan is not None:
        save_plan(path.with_name(model_files.PLAN), plan)


def deployed(model: Model) -> Model:
    """The same as it is deployed, as scales are only ever made for: the float baseline."""
    checkpoint = as_deployed(model.checkpoint)
    if checkpoint is model.checkpoint:
        return model
    device = next(model.network.parameters()).device
    network = restore_detector(checkpoint).to(device)
    return replace(model, checkpoint=checkpoint, network=network, quantized=network)


def without_ranges(model: Model) -> Model:
    """The float model."""
    return replace(model, scales=None, plan=None, quantized=model.network)


def quantized_as(model: Model, plan: PrecisionPlan) -> DetectorNetwork:
    """A copy of the float network with the operations of a plan fake-quantized."""
    return quantize(model.network, model.require_scales(), plan)


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
