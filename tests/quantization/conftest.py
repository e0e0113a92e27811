"""A small network with everything that calibration has to see through, and its ranges."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.calibrated_scales import calibrated_scales
from tests.yolov6_numbers import narrowed
from torch import Tensor, nn

from quantpipe.detector.families.yolov6.network import Detector, build_detector, fold_batch_norm
from quantpipe.process_group import SingleProcess
from quantpipe.progress import Silent
from quantpipe.quantization.operations import find_operations
from quantpipe.quantization.precision_plan import PrecisionPlan
from quantpipe.quantization.scale_cache import ScaleCache
from quantpipe.quantization.sensitivity.ranking import RankingTask
from quantpipe.quantization.simulation.network import quantize

NANO = narrowed(depth=0.33, width=0.25, num_classes=3)


class Notes(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class SmallNetwork(nn.Module):
    """stem -> pool chain and up-sampled branch -> two concats; ``unused`` is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.after_pools = nn.Conv2d(24, 8, 1)
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.after_up = nn.Conv2d(16, 8, 3, padding=1)
        self.left = nn.Conv2d(8, 5, 1)
        self.right = nn.Conv2d(8, 4, 1)
        self.unused = nn.Conv2d(8, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        left, right = self.predict(images)
        return torch.cat([left.sigmoid(), right], dim=1)

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(images).relu_()
        pooled = self.pool(x)
        y = self.after_pools(torch.cat([x, pooled, self.pool(pooled)], dim=1)).relu()
        z = self.up(self.down(y).relu())
        w = self.after_up(torch.cat([z, y], dim=1)).relu()
        return self.left(w), self.right(w)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def detector() -> Detector:
    return fold_batch_norm(build_detector(NANO, "repopt", seed=0))


@pytest.fixture
def network() -> SmallNetwork:
    network = SmallNetwork().eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            fan_in = max(parameter[0].numel(), 4)
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator) * (2.0 / fan_in) ** 0.5
            )
    return network


@pytest.fixture
def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.rand(4, 3, 32, 32, generator=generator) for _ in range(3)]


@pytest.fixture
def scales(network: SmallNetwork, batches: list[Tensor]) -> ScaleCache:
    return calibrated_scales(network, batches)


@pytest.fixture
def task(
    network: SmallNetwork, scales: ScaleCache, batches: list[Tensor], tmp_path: Path
) -> RankingTask[Tensor]:
    """The small network's operations, to be ranked on three batches of four images."""
    return RankingTask(
        network=network,
        scales=scales,
        operations=find_operations(network, batches[0][:1]),
        direction="only",
        batches=batches,
        num_batches=len(batches),
        batch_size=len(batches[0]),
        processes=SingleProcess(),
        seed=0,
        progress=Silent(),
        progress_folder=tmp_path / "progress",
    )


def predict(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Both outputs of the small network."""
    found: tuple[Tensor, Tensor] = cast(Any, network).predict(images)
    return found


def switched(task: RankingTask[Tensor], name: str | None) -> nn.Module:
    """From the start: the network with one operation, or none, switched, as a plan makes it."""
    alone = task.direction == "only"
    chosen = [other for other in task.names if (other == name) == alone]
    plan = PrecisionPlan(operations=dict.fromkeys(chosen, "int8"), reason="")
    return quantize(task.network, task.scales, plan)
