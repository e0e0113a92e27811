import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.input_specifications import letterboxed
from tests.training.conftest import DISTILLATION
from tests.yolov6_numbers import LOSS_SETTINGS
from torch import Tensor, nn

from quantpipe.detector.families.yolov6.architecture import Architecture
from quantpipe.detector.families.yolov6.loss import detection_loss
from quantpipe.detector.families.yolov6.network import build_detector
from quantpipe.errors import ArtifactError, Interrupted, NumericalError
from quantpipe.process_group import SingleProcess
from quantpipe.progress import Silent
from quantpipe.training.distillation import distillation_loss
from quantpipe.training.epochs import Observers
from quantpipe.training.log import NoLog
from quantpipe.training.loop import TrainResult, train
from quantpipe.training.recipe import Recipe
from quantpipe.training.step import Objective

MakeRecipe = Callable[..., Recipe]
Make = Callable[..., Any]


SILENT = Observers(validate=None, log=NoLog(), progress=Silent(), description="train")


class Same:
    """One batch, again and again."""

    def __init__(self, batch: Any, num_batches: int):
        self.batch, self.num_batches = batch, num_batches

    def __call__(self, *, epoch: int, start_batch: int, strong: bool) -> Iterator[Any]:
        return iter([self.batch] * (self.num_batches - start_batch))


class Watcher(Silent):
    """Asks to stop after a number of steps, or fails as a killed process would."""

    def __init__(self, *, stop_after: int = -1, die_after: int = -1):
        self.stop_after, self.die_after = stop_after, die_after
        self.steps = 0
        self.texts: list[str] = []
        self.tracked: list[tuple[int | None, int]] = []

    def track(self, items: Any, description: str, *, total: Any = None, done: int = 0) -> Any:
        self.tracked.append((total, done))
        return super().track(items, description, total=total, done=done)

    def status(self, text: str) -> None:
        self.texts.append(text)

    def should_stop(self) -> bool:
        self.steps += 1
        if self.steps == self.die_after:
            raise KeyboardInterrupt
        return self.steps == self.stop_after


def run(
    detector: nn.Module, source: Any, recipe: Recipe, folder: Path, **changes: Any
) -> TrainResult:
    for name in ("validate_every", "patience"):
        if name in changes:
            recipe = replace(recipe, **{name: changes.pop(name)})
    objective = Objective(
        loss=detection_loss(changes.pop("loss", LOSS_SETTINGS)),
        extra_loss=changes.pop("extra_loss", None),
        gradient_masks=changes.pop("gradient_masks", None),
    )
    save_every = changes.pop("save_every", 2)
    return train(
        detector,
        source,
        recipe,
        objective,
        letterboxed(64),
        device=torch.device("cpu"),
        processes=SingleProcess(),
        save_every=save_every,
        progress_folder=folder,
        observers=replace(SILENT, **changes),
    )


def assert_same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert set(first) == set(second)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def without_seconds(result: TrainResult) -> list[dict[str, float]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in result.history]


def brightness(network: nn.Module) -> float:
    """A stand-in for mAP that depends on every weight."""
    assert not network.training
    return float(sum(t.double().abs().sum() for t in network.state_dict().values()))


MASKS = {"stem.weight": torch.full((8, 3, 8, 8), 1.5)}


@pytest.mark.parametrize("way", ["stop_after", "die_after"])
@pytest.mark.parametrize("at", range(1, 10))
def test_a_resumed_training_ends_with_the_same_bits(
    tmp_path: Path,
    make_recipe: MakeRecipe,
    make_source: Make,
    tiny_detector: Make,
    way: str,
    at: int,
) -> None:
    # 5 batches by two make 3 steps an epoch, the last of one batch; 9 steps in all.
    recipe = make_recipe(nominal_batch=4)
    settings = {"validate": brightness, "gradient_masks": MASKS}
    unbroken = run(tiny_detector(), make_source(5), recipe, tmp_path / "a", **settings)

    watcher = Watcher(**{way: at})
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        run(tiny_detector(), make_source(5), recipe, tmp_path / "b", progress=watcher, **settings)
    again = Watcher()
    resumed = run(
        tiny_detector(), make_source(5), recipe, tmp_path / "b", progress=again, **settings
    )
    done = at if way == "stop_after" else (at - 1) // 2 * 2
    assert again.tracked == ([] if done == 9 else [(9, done)])
    assert_same_bits(resumed.weights, unbroken.weights)
    assert_same_bits(resumed.best_weights, unbroken.best_weights)
    assert without_seconds(resumed) == without_seconds(unbroken)
    assert (resumed.best_epoch, resumed.best_score) == (unbroken.best_epoch, unbroken.best_score)


@pytest.mark.parametrize("form", ["repopt", "linear_add"])
def test_the_real_detector_resumes_with_the_same_bits(
    tmp_path: Path,
    make_recipe: MakeRecipe,
    make_source: Make,
    architecture: Architecture,
    form: Any,
) -> None:
    recipe = make_recipe(epochs=2, channels_last=True)
    unbroken = run(
        build_detector(architecture, form, seed=0), make_source(2), recipe, tmp_path / "a"
    )
    with pytest.raises(Interrupted):
        run(
            build_detector(architecture, form, seed=0),
            make_source(2),
            recipe,
            tmp_path / "b",
            progress=Watcher(stop_after=3),
        )
    # Nothing of the new detector may survive, so another seed changes nothing.
    resumed = run(
        build_detector(architecture, form, seed=1), make_source(2), recipe, tmp_path / "b"
    )
    assert_same_bits(resumed.weights, unbroken.weights)


def test_a_stop_saves_and_says_so(
    tmp_path: Path, make_recipe: MakeRecipe, make_source: Make, tiny_detector: Make
) -> None:
    with pytest.raises(Interrupted) as caught:
        run(
            tiny_detector(),
            make_source(4),
            make_recipe(),
            tmp_path,
            progress=Watcher(stop_after=1),
            save_every=1000,
        )
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert [path.name[:14] for path in tmp_path.iterdir()] == ["step-000000001"]


def test_a_finished_training_is_not_repeated(
    tmp_path: Path, make_recipe: MakeRecipe, make_source: Make, tiny_detector: Make
) -> None:
    first = run(tiny_detector(), make_source(3), make_recipe(), tmp_path)
    source = make_source(3)
    second = run(tiny_detector(), source, make_recipe(), tmp_path)
    assert source.calls == []
    assert_same_bits(first.weights, second.weights)


def test_a_damaged_state_costs_one_interval(
    tmp_path: Path, make_recipe: MakeRecipe, make_source: Make, tiny_detector: Make
) -> None:
    unbroken = run(tiny_detector(), make_source(3), make_recipe(), tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run(
            tiny_detector(),
            make_source(3),
            make_recipe(),
            tmp_path / "b",
            progress=Watcher(die_after=5),
        )
    newest = max((tmp_path / "b").iterdir())
    newest.write_bytes(newest.read_bytes()[:-8])
    source = make_source(3)
    resumed = run(tiny_detector(), source, make_recipe(), tmp_path / "b")
    assert source.calls[0] == (0, 2, True)
    assert_same_bits(resumed.weights, unbroken.weights)


def test_a_state_of_another_network_is_refused(
    tmp_path: Path, make_recipe: MakeRecipe, make_source: Make, tiny_detector: Make
) -> None:
    run(tiny_detector(), make_source(2), make_recipe(), tmp_path)
    with pytest.raises(ArtifactError, match="another network"):
        run(tiny_detector(batch_norm=False), make_source(2), make_recipe(), tmp_path)


def test_accumulated_batches_make_one_step_on_their_mean_gradient(
    tmp_path: Path, make_recipe: MakeRecipe, make_source: Make, make_batch: Make
) -> None:
    plain = {"weight_decay": 0.0, "ema_decay": 0.0}
    one = make_recipe(nominal_batch=2, **plain)
    three = make_recipe(nominal_batch=6, **plain)
    assert (one.accumulate, three.accumulate) == (1, 3)
    detectors = [linear_detector(), linear_detector()]
    single = run(detectors[0], Same(make_batch(0), 1), one, tmp_path / "a")
    triple = run(detectors[1], Same(make_batch(0), 3), three, tmp_path / "b")
    for name, tensor in single.weights.items():
        torch.testing.assert_close(triple.weights[name], tensor, rtol=1e-5, atol=1e-6)


def linear_detector() -> nn.Module:
    """Without BatchNorm, whose running statistics count batches."""
    from quantpipe.detector.families.implementation import DetectorNetwork, RawPrediction

    class Linear(DetectorNetwork):
        def __init__(self) -> None:
            super().__init__()
            self.levels = nn.ModuleList(nn.Conv2d(3, 6, s, s) for s in (8, 16, 32))
            for parameter in self.parameters():
                nn.init.constant_(parameter, 0.01)

        def predict(self, images: Tensor) -> RawPrediction:
            maps = [level(images) for level in self.levels]
            flat = torch.cat([m.flatten(2) for m in maps], 2).mT
            return RawPrediction(flat[..., 4:], flat[..., :4] + 1, tuple(maps))

        def forward(self, images: Tensor) -> Tensor:
            raise NotImplementedError

        def may_use_channels_last(self, device: torch.device) -> bool:
            return True

    return Linear()


@pytest.mark.parametrize(
    ("form", "mixed", "part"),
    [("repopt", False, 0.25), ("linear_add", True, 0.25), ("deploy", False, 0.8)],
)
def test_loss_falls(
    tmp_path: Path,
    make_recipe: MakeRecipe,
    make_batch: Make,
    architecture: Architecture,
    form: Any,
    mixed: bool,
    part: float,
) -> None:
    """With and without BatchNorm, in float32 and bfloat16, 48 steps fit four images."""
    recipe = make_recipe(
        epochs=4, lr=0.05, mixed_precision=mixed, channels_last=mixed, gradient_clip=10.0
    )
    source = Same(make_batch(0, num_images=4), 12)
    detector = build_detector(architecture, form, seed=0)
    result = run(detector, source, recipe, tmp_path, save_every=100)
    losses = [record["loss"] for record in result.history]
    assert losses[-1] < part * losses[0]
    assert all(t.is_contiguous() and t.dtype != torch.bfloat16 for t in result.weights.values())


def test_history_has_every_epoch(
    tmp_path: Path, make_recipe: MakeRecipe, make_source: Make, tiny_detector: Make
) -> None:
    scores = iter([0.3, 0.2])
    watcher = Watcher()
    result = run(
        tiny_detector(),
        make_source(2),
        make_recipe(epochs=3),
        tmp_path,
        validate=lambda _: next(scores),
        validate_every=2,
        progress=watcher,
    )
    assert [record["epoch"] for record in result.history] == [1, 2, 3]
    assert [record.get("map") for record in result.history] == [None, 0.3, 0.2]
    for record in result.history:
        assert record["loss"] == pytest.approx(record["cls"] + record["iou"] + record["extra"])
        assert record["seconds"] > 0
    assert (result.best_epoch, result.best_score) == (2, 0.3)
    assert watcher.texts[0].startswith("loss ")
    assert "mAP" not in watcher.texts[0]
    assert watcher.texts[-1].endswith("mAP 0.2000")


def test_best_weights_are_those_that_were_scored(
    tmp_path: Path, make_recipe: MakeRecipe, make_source: Make, tiny_detector: Make
) -> None:
    seen: list[dict[str, Tensor]] = []

    def validate(network: nn.Module) -> float:
        seen.append({n: t.clone() for n, t in network.state_dict().items()})
        return [0.1, 0.5, 0.5][len(seen) - 1]

    result = run(tiny_detector(), make_source(2), make_recipe(), tmp_path, validate=validate)
    assert_same_bits(result.best_weights, seen[1])
    assert_same_bits(result.weights, seen[2])


def test_without_an_average_the_network_itself_is_validated(
    tmp_path: Path, make_recipe: MakeRecipe, make_source: Make, tiny_detector: Make
) -> None:
    detector = tiny_detector()
    modes: list[tuple[bool, bool]] = []

    def validate(network: nn.Module) -> float:
        modes.append((network is detector, network.training))
        return 0.0

    result = run(detector, make_source(2), make_recipe(ema_decay=0.0), tmp_path, validate=validate)
    assert modes == [(True, False)] * 3
    assert_same_bits(result.weights, dict(detector.state_dict()))


def test_nan_loss_stops_before_the_weights_change(
    tmp_path: Path, make_recipe: MakeRecipe, make_source: Make, tiny_detector: Make
) -> None:
    detector = tiny_detector()

    def poison(images: Tensor, prediction: Any, epoch: int) -> Tensor:
        factor = float("nan") if epoch == 1 else 0.0
        return torch.as_tensor(prediction.class_logits.sum() * factor)

    with pytest.raises(NumericalError, match=r"loss is nan in epoch 2 at step 4; .*step-000000002"):
        run(detector, make_source(3), make_recipe(), tmp_path, extra_loss=poison)
    assert max(path.name for path in tmp_path.iterdir()).startswith("step-000000002")
    assert all(bool(p.isfinite().all()) for p in detector.parameters())


def test_a_state_that_is_not_finite_is_never_saved(
    tmp_path: Path, make_recipe: MakeRecipe, make_source: Make, tiny_detector: Make
) -> None:
    masks = {"stem.weight": torch.full((8, 3, 8, 8), float("inf"))}
    with pytest.raises(NumericalError, match="no longer finite"):
        run(
            tiny_detector(),
            make_source(3),
            make_recipe(warmup_max_fraction=0.0),
            tmp_path,
            gradient_masks=masks,
            save_every=1,
        )
    assert list(tmp_path.iterdir()) == []


def test_nan_score_is_an_error(
    tmp_path: Path, make_recipe: MakeRecipe, make_source: Make, tiny_detector: Make
) -> None:
    with pytest.raises(NumericalError, match="validation score is nan in epoch 1"):
        run(
            tiny_detector(),
            make_source(2),
            make_recipe(),
            tmp_path,
            validate=lambda _: float("nan"),
        )


def test_a_network_that_predicts_nan_is_named_by_its_step(
    tmp_path: Path, make_recipe: MakeRecipe, make_source: Make, tiny_detector: Make
) -> None:
    def validate(network: Any) -> float:
        raise NumericalError("the prediction holds NaN", hint="keep more layers in float")

    with pytest.raises(NumericalError, match=r"holds NaN at step \d+; .* lower the learning rate"):
        run(tiny_detector(), make_source(2), make_recipe(), tmp_path, validate=validate)


def test_distillation_pulls_the_student_to_the_teacher(
    tmp_path: Path, make_recipe: MakeRecipe, make_source: Make, tiny_detector: Make
) -> None:
    teacher = tiny_detector(batch_norm=False)
    nn.init.normal_(teacher.stem.weight, std=0.1, generator=torch.Generator().manual_seed(3))
    extra = distillation_loss(teacher, DISTILLATION, epochs=1000)
    result = run(
        tiny_detector(batch_norm=False),
        make_source(5),
        make_recipe(epochs=6, lr=0.1),
        tmp_path,
        extra_loss=extra,
        loss=replace(LOSS_SETTINGS, classification_weight=0.0, box_weight=0.0),
    )
    losses = [record["extra"] for record in result.history]
    assert 0 < losses[-1] < 0.7 * losses[0]


def scored(*scores: float) -> Callable[[nn.Module], float]:
    """Validation that gives these scores in turn."""
    remaining = iter(scores)
    return lambda network: next(remaining)


def test_a_training_whose_score_no_longer_rises_stops(
    tmp_path: Path, make_recipe: MakeRecipe, make_source: Make, tiny_detector: Make
) -> None:
    result = run(
        tiny_detector(),
        make_source(2),
        make_recipe(epochs=8),
        tmp_path,
        validate=scored(0.1, 0.4, 0.3, 0.2, 0.9),
        patience=2,
    )
    assert result.stopped_early
    assert [record["map"] for record in result.history] == [0.1, 0.4, 0.3, 0.2]
    assert (result.best_epoch, result.best_score) == (2, 0.4)


def test_a_training_that_goes_on_rising_does_not_stop(
    tmp_path: Path, make_recipe: MakeRecipe, make_source: Make, tiny_detector: Make
) -> None:
    scores = scored(0.1, 0.2, 0.15, 0.3)
    recipe = make_recipe(epochs=4)
    result = run(tiny_detector(), make_source(2), recipe, tmp_path, validate=scores, patience=2)
    assert not result.stopped_early
    assert len(result.history) == 4


@pytest.mark.parametrize("at", [4, 5, 6, 7, 8])
def test_an_early_stop_comes_at_the_same_epoch_after_a_resume(
    tmp_path: Path, make_recipe: MakeRecipe, make_source: Make, tiny_detector: Make, at: int
) -> None:
    by_epoch = {1: 0.1, 2: 0.4, 3: 0.3, 4: 0.2}
    recipe = make_recipe(epochs=8)

    def train_on(**changes: Any) -> TrainResult:
        newest = max((int(p.name[5:14]) for p in tmp_path.glob("step-*")), default=0)
        # The epoch that a state at its last step has yet to close is validated after the resume.
        scores = (by_epoch[epoch] for epoch in range(max(1, -(-newest // 2)), 5))
        return run(
            tiny_detector(),
            make_source(2),
            recipe,
            tmp_path,
            validate=lambda network: next(scores),
            patience=2,
            **changes,
        )

    with pytest.raises(Interrupted):
        train_on(progress=Watcher(stop_after=at))
    result = train_on()
    assert result.stopped_early
    assert len(result.history) == 4


def test_best_or_last_weights_are_selected(
    tmp_path: Path, make_recipe: MakeRecipe, make_source: Make, tiny_detector: Make
) -> None:
    result = run(
        tiny_detector(),
        make_source(2),
        make_recipe(epochs=3),
        tmp_path,
        validate=scored(0.1, 0.4, 0.3),
    )
    best, last = result.selected("best"), result.selected("last")
    assert (best.epoch, best.score) == (2, 0.4)
    assert (last.epoch, last.score) == (3, 0.3)
    assert_same_bits(best.weights, result.best_weights)
    assert_same_bits(last.weights, result.weights)
    assert any(not torch.equal(t, last.weights[name]) for name, t in best.weights.items())


def test_the_log_hears_of_every_step_and_score(
    tmp_path: Path, make_recipe: MakeRecipe, make_source: Make, tiny_detector: Make
) -> None:
    class Ear:
        def __init__(self) -> None:
            self.steps: list[tuple[int, float, float]] = []
            self.scores: list[tuple[int, float]] = []

        def step(self, step: int, losses: Any, rates: Any) -> None:
            self.steps.append((step, losses["loss"], rates["lr"]))

        def validated(self, step: int, score: float, network: nn.Module) -> None:
            assert not network.training
            self.scores.append((step, score))

    ear = Ear()
    recipe = make_recipe(epochs=2)
    result = run(
        tiny_detector(), make_source(3), recipe, tmp_path, validate=scored(0.1, 0.4), log=ear
    )
    assert [step for step, _, _ in ear.steps] == [1, 2, 3, 4, 5, 6]
    assert ear.scores == [(3, 0.1), (6, 0.4)]
    losses = [loss for _, loss, _ in ear.steps]
    assert sum(losses[:3]) / 3 == pytest.approx(result.history[0]["loss"])
    assert ear.steps[2][2] == pytest.approx(result.history[0]["lr"])
