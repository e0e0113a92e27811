"""The state of a training: everything a step changes, saved and restored as one."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from quantpipe.errors import ArtifactError, NumericalError
from quantpipe.progress import Progress
from quantpipe.training.ema import MovingAverage
from quantpipe.training.optimizer import build_sgd, momentum_buffers
from quantpipe.training.recipe import Recipe
from quantpipe.training.saved_state import Counters, newest_path, newest_state, write_state

_BEST = "best."


class Session:
    """A network in training, its optimizer, its average, and where the training is.

    Args:
        network: Trained in place, on the device it is on.
        recipe: Momentum, weight decay and averaging are read here.
        folder: Where states are saved and looked for.
        saves: Whether this process writes them; other ranks only check.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, folder: Path, *, saves: bool = True):
        self._saves = saves
        self.network = network
        self.folder = folder
        self.counters = Counters()
        schedule = recipe.schedule
        self.optimizer = build_sgd(
            network,
            lr=recipe.lr,
            momentum=schedule.momentum,
            nesterov=schedule.nesterov,
            weight_decay=recipe.scaled_weight_decay,
        )
        self.average = (
            MovingAverage(network, decay=schedule.ema_decay, ramp_steps=schedule.ema_ramp_steps)
            if schedule.ema_decay > 0
            else None
        )
        self._best: dict[str, Tensor] = {}

    @property
    def evaluated(self) -> nn.Module:
        """The network to measure and to publish: the average where there is one."""
        return self.network if self.average is None else self.average.network

    def weights(self) -> dict[str, Tensor]:
        """Copies the state dict of the evaluated network to the CPU, in plain memory order."""
        tensors = self.evaluated.state_dict()
        return {n: t.detach().to("cpu", copy=True).contiguous() for n, t in tensors.items()}

    def best_weights(self) -> dict[str, Tensor]:
        """The weights of the best validated epoch; the present ones if none was validated."""
        return dict(self._best) or self.weights()

    def consider(self, score: float, epoch: int) -> None:
        """Keeps the weights if ``score`` is the best so far.

        Raises:
            NumericalError: The score is NaN or infinite.
        """
        if not math.isfinite(score):
            raise NumericalError(f"the validation score is {score} in epoch {epoch}")
        best = self.counters.best_score
        if best is None or score > best:
            self.counters.best_score, self.counters.best_epoch = score, epoch
            self._best = self.weights()

    def save(self) -> None:
        """Writes the state.

        Raises:
            NumericalError: A tensor holds a NaN or an infinity; nothing is written.
        """
        tensors = self._live()
        self.require_finite(tensors)
        if not self._saves:
            return
        best = {f"{_BEST}{name}": tensor for name, tensor in self._best.items()}
        write_state(self.folder, self.counters, tensors | best)

    def require_finite(self, tensors: dict[str, Tensor]) -> None:
        """Raises NumericalError if a tensor holds a NaN or an infinity."""
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise self.diverged(f"'{name}' is no longer finite")

    def diverged(self, cause: str) -> NumericalError:
        """Returns the error for a number that went wrong in the step after the last one done."""
        good = newest_path(self.folder)
        state = "no good state was saved" if good is None else f"the last good state is {good}"
        return NumericalError(
            f"{cause} at step {self.counters.step + 1}",
            hint=f"{state}; lower the learning rate, or look at the data",
        )

    @torch.no_grad()
    def restore(self, progress: Progress) -> None:
        """Goes back to the newest state, if there is one.

        Raises:
            ArtifactError: The state is of another network or recipe.
        """
        found = newest_state(self.folder, progress.note)
        if found is None:
            return
        self.counters, tensors = found
        best = {n: tensors.pop(n) for n in list(tensors) if n.startswith(_BEST)}
        self._best = {name.removeprefix(_BEST): tensor for name, tensor in best.items()}
        live = self._live()
        if {n: t.shape for n, t in live.items()} != {n: t.shape for n, t in tensors.items()}:
            raise ArtifactError(
                "the saved training state is of another network or recipe",
                path=self.folder,
                hint="remove the folder to start over",
            )
        for name, tensor in live.items():
            tensor.copy_(tensors[name])

    def _live(self) -> dict[str, Tensor]:
        """Every tensor that a step changes, not copied."""
        parts = {
            "network": dict(self.network.state_dict()),
            "momentum": momentum_buffers(self.optimizer, self.network),
            "average": {} if self.average is None else dict(self.average.network.state_dict()),
        }
        return {f"{part}.{n}": t for part, tensors in parts.items() for n, t in tensors.items()}
