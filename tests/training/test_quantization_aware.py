"""The same loop trains a fake-quantized network towards its float self."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from quantpipe.detector.architecture import Architecture
from quantpipe.detector.network import Detector, build_detector, fold_batch_norm
from quantpipe.errors import Interrupted
from quantpipe.progress import Silent
from quantpipe.quantization.calibration import collect, solve
from quantpipe.quantization.fake_quantize import quantize
from quantpipe.quantization.operations import find_operations
from quantpipe.quantization.scale_cache import ScaleCache, build_scale_cache
from quantpipe.quantization.weight_ranges import weight_scales
from quantpipe.training.distillation import distillation_loss
from quantpipe.training.log import NoLog
from quantpipe.training.loop import TrainResult, train
from quantpipe.training.recipe import Recipe
from quantpipe.training.team import Alone


def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def deployed(architecture: Architecture) -> Detector:
    network = build_detector(architecture, "repopt", seed=0)
    for _ in range(20):
        network.predict(images())
    return fold_batch_norm(network.eval())


@pytest.fixture
def scales(deployed: Detector) -> ScaleCache:
    operations = find_operations(deployed, images()[:1])
    statistics = collect(deployed, operations, [images()], progress=Silent())
    return build_scale_cache(
        solve(statistics, "max", progress=Silent()),
        weight_scales(deployed, operations, "max", progress=Silent()),
        method="max",
        weights_digest="weights",
        data_digest="data",
        preprocessing={"image_size": 64},
    )


class StopAfter(Silent):
    def __init__(self, steps: int):
        self.steps = steps

    def should_stop(self) -> bool:
        self.steps -= 1
        return self.steps == 0


def run(
    student: Any, teacher: Any, source: Any, recipe: Recipe, folder: Path, progress: Silent
) -> TrainResult:
    return train(
        student,
        source,
        recipe,
        num_batches=source.num_batches,
        device=torch.device("cpu"),
        gradient_masks=None,
        extra_loss=distillation_loss(
            teacher,
            epochs=recipe.epochs,
            class_weight=1.0,
            class_temperature=20.0,
            feature_weight=10.0,
            feature_temperature=1.0,
        ),
        validate=None,
        validate_every=1,
        patience=None,
        log=NoLog(),
        team=Alone(),
        save_every=100,
        progress_folder=folder,
        progress=progress,
        description="qat",
    )


def test_a_fake_quantized_network_learns_from_its_float_self_and_resumes(
    tmp_path: Path,
    make_recipe: Callable[..., Recipe],
    make_source: Callable[..., Any],
    deployed: Detector,
    scales: ScaleCache,
) -> None:
    recipe = make_recipe(epochs=4, lr=1e-3, warmup_epochs=0.0, classification_weight=0.0)
    whole = run(
        quantize(deployed, scales), deployed, make_source(4), recipe, tmp_path / "a", Silent()
    )
    with pytest.raises(Interrupted):
        run(
            quantize(deployed, scales),
            deployed,
            make_source(4),
            recipe,
            tmp_path / "b",
            StopAfter(6),
        )
    resumed = run(
        quantize(deployed, scales), deployed, make_source(4), recipe, tmp_path / "b", Silent()
    )
    before = dict(deployed.state_dict())
    assert set(whole.weights) == set(before)
    for name, tensor in whole.weights.items():
        assert torch.equal(tensor, resumed.weights[name]), name
    assert not torch.equal(
        whole.weights["backbone.stem.conv.weight"], before["backbone.stem.conv.weight"]
    )
    assert whole.history[0]["extra"] > 0
