from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.detector.released.released_package import save_released
from tests.input_specifications import letterboxed
from tests.stages.conftest import Artifacts, Configure, RunStage, artifact_at
from torch import Tensor

from quantpipe.core.artifact import Artifact
from quantpipe.core.stage import Context
from quantpipe.data.batches import float_batches, sample
from quantpipe.data.images import read_image
from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.checkpoint_family import as_deployed, operation_names, restore_detector
from quantpipe.detector.checkpoint_file import load_checkpoint, save_checkpoint
from quantpipe.errors import ArtifactError, ConfigurationError, NumericalError
from quantpipe.quantization.calibration import collect as calibration
from quantpipe.quantization.calibration.collect import collect
from quantpipe.quantization.model_files import CHECKPOINT, SCALES
from quantpipe.quantization.scale_cache import load_scales
from quantpipe.quantization.weight_rounding.codes import codes_of
from quantpipe.settings.data import open_split
from quantpipe.stages.artifacts import MODEL
from quantpipe.stages.calibrate import STAGE
from quantpipe.stages.calibrate.config import Method, method_of
from quantpipe.stages.calibrate.statistics import CalibrationImages


def test_every_operation_gets_a_range(trained: Checkpoint, calibrated: Artifacts) -> None:
    cache = load_scales(calibrated["model"].folder / SCALES)
    assert set(cache.operations()) == set(operation_names(trained))
    assert cache.weights_digest == load_checkpoint(calibrated["model"].path).weights_digest
    assert cache.preprocessing["height"] == cache.preprocessing["width"] == 64


def test_the_range_of_the_input_is_that_of_the_pixels(
    configured: Configure, run_stage: RunStage, float_model: Artifact, context: Context
) -> None:
    config = replace(configured("calibrate"), num_images=1, method="max")
    made = run_stage("calibrate", config, model=float_model)
    cache = load_scales(made["model"].folder / SCALES)
    (amax,) = cache.scales[f"{cache.operations()[0]}.input"].amax
    (chosen,) = sample(8, 1, context.seed)
    image = open_split(config.data, "train", context).images[chosen]
    assert amax == pytest.approx(read_image(image.path).max() / 255, rel=1e-6)


def test_a_percentile_clips_and_max_does_not(
    configured: Configure, run_stage: RunStage, float_model: Artifact
) -> None:
    config = configured("calibrate")
    found = {}
    for method in ("max", "percentile"):
        changed = replace(config, percentile=95.0 if method == "percentile" else None)
        made = run_stage("calibrate", changed, model=float_model)
        scales = load_scales(made["model"].folder / SCALES).scales
        found[method] = {n: s.amax[0] for n, s in scales.items() if s.kind == "activation"}
    assert all(found["percentile"][n] <= found["max"][n] * (1 + 1e-6) for n in found["max"])
    smaller = sum(found["percentile"][n] < 0.8 * found["max"][n] for n in found["max"])
    assert smaller > len(found["max"]) / 2


def test_folding_changes_no_output(trained: Checkpoint, calibrated: Artifacts) -> None:
    after = load_checkpoint(calibrated["model"].path)
    assert after.settings["form"] == "deploy"
    assert not any("running_mean" in name for name in after.tensors)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = restore_detector(trained)(images)
        torch.testing.assert_close(restore_detector(after)(images), expected, rtol=1e-3, atol=1e-3)


def test_a_deployed_checkpoint_is_calibrated_as_it_is(
    configured: Configure, run_stage: RunStage, calibrated: Artifacts
) -> None:
    again = run_stage("calibrate", configured("calibrate"), model=calibrated["model"])
    assert again["model"].digests[SCALES] == calibrated["model"].digests[SCALES]
    assert again["model"].digests[CHECKPOINT] == calibrated["model"].digests[CHECKPOINT]


def test_other_classes_are_refused(
    configured: Configure, run_stage: RunStage, trained: Checkpoint, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / CHECKPOINT, replace(trained, class_names=("cat", "dog")))
    other = artifact_at(tmp_path, MODEL)
    with pytest.raises(ArtifactError, match="knows the classes cat, dog"):
        run_stage("calibrate", configured("calibrate"), model=other)


def test_the_content_is_the_images(configured: Configure, tmp_path: Path) -> None:
    assert set(STAGE.content(configured("calibrate"), tmp_path)) == {"data"}


@pytest.mark.parametrize(
    ("method", "percentile", "used"),
    [(None, None, "max"), (None, 99.9, "percentile"), ("entropy", None, "entropy")],
)
def test_a_percentile_chooses_its_method(
    configured: Configure, method: Method | None, percentile: float | None, used: str
) -> None:
    assert method_of(replace(configured("calibrate"), method=method, percentile=percentile)) == used


@pytest.mark.parametrize(("method", "percentile"), [("percentile", None), ("mse", 99.9)])
def test_a_method_and_a_percentile_that_contradict_are_refused(
    configured: Configure, method: Method, percentile: float | None
) -> None:
    config = configured("calibrate")
    with pytest.raises(ConfigurationError, match="percentile"):
        replace(config, method=method, percentile=percentile)


def test_ranges_come_from_a_calibrated_public_checkpoint(
    configured: Configure,
    run_stage: RunStage,
    float_model: Artifact,
    calibrated: Artifacts,
    tmp_path: Path,
) -> None:
    """Our own ranges, written as the toolkit's modules keep them, are read back."""
    ours = load_scales(calibrated["model"].folder / SCALES)
    tensors, left_out = {}, "detect.cls_preds.0"
    for scale in ours.scales.values():
        layer = scale.operation
        if layer == left_out:
            continue
        amax = torch.tensor(scale.amax)
        if scale.kind == "activation":
            tensors[f"{layer}._input_quantizer._amax"] = amax.reshape(())
        elif scale.axis is None:  # a transposed convolution, there by output channel
            tensors[f"{layer}._weight_quantizer._amax"] = torch.cat([amax, amax / 2]).reshape(
                1, 2, 1, 1
            )
        else:
            tensors[f"{layer}._weight_quantizer._amax"] = amax.reshape(-1, 1, 1, 1)
    path = save_released(tmp_path / "calib.pt", first_generation_of_ranges(tensors))
    config = replace(configured("calibrate"), from_checkpoint=path)
    read = load_scales(run_stage("calibrate", config, model=float_model)["model"].folder / SCALES)
    expected = {n: s for n, s in ours.scales.items() if s.operation != left_out}
    assert set(read.scales) == set(expected)
    for name, scale in expected.items():
        assert read.scales[name].amax == pytest.approx(scale.amax, rel=1e-3)  # half precision
        assert read.scales[name].axis == scale.axis
    assert {scale.method for scale in read.scales.values()} == {"checkpoint"}


def first_generation_of_ranges(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.replace(".sppf.", ".").replace(".block.conv.", ".conv."): tensor
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"a.weight": torch.ones(1)}, "holds no ranges"),
        ({"a.conv._input_quantizer._amax": torch.ones(())}, "no operation for 'a.conv"),
        (
            {
                "backbone.stem.conv._input_quantizer._amax": torch.ones(()),
                "backbone.stem.conv._weight_quantizer._amax": torch.ones(3, 1, 1, 1),
            },
            "has 3 ranges, in the model 8 channels",
        ),
        (
            {
                "backbone.stem.conv._input_quantizer._amax": torch.tensor(torch.nan),
                "backbone.stem.conv._weight_quantizer._amax": torch.ones(8, 1, 1, 1),
            },
            "not finite or negative",
        ),
    ],
)
def test_ranges_that_do_not_fit_are_refused(
    tensors: dict[str, Tensor],
    match: str,
    configured: Configure,
    run_stage: RunStage,
    float_model: Artifact,
    tmp_path: Path,
) -> None:
    path = save_released(tmp_path / "calib.pt", tensors)
    config = replace(configured("calibrate"), from_checkpoint=path)
    with pytest.raises(ArtifactError, match=match):
        run_stage("calibrate", config, model=float_model)


def test_a_sweep_over_percentiles_counts_once(
    configured: Configure,
    run_stage: RunStage,
    float_model: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collected: list[int] = []

    def counting(*arguments: Any, **named: Any) -> Any:
        collected.append(1)
        return collect(*arguments, **named)

    monkeypatch.setattr(calibration, "collect", counting)
    ranges = []
    for percentile in (90.0, 99.0, 100.0):
        # Other images than those of the other tests, which share their materials with this one.
        config = configured(
            "calibrate", f"calibrate.percentile={percentile}", "calibrate.num_images=3"
        )
        made = run_stage("calibrate", config, model=float_model)
        ranges.append(
            load_scales(made["model"].folder / SCALES).scales["backbone.stem.conv.input"].amax[0]
        )
    assert len(collected) == 1
    assert ranges == sorted(ranges)
    assert ranges[0] < ranges[-1]


def test_auto_takes_the_range_of_some_candidate_for_every_group(
    configured: Configure, run_stage: RunStage, float_model: Artifact, calibrated: Artifacts
) -> None:
    found = run_stage(
        "calibrate", configured("calibrate", "calibrate.method=auto"), model=float_model
    )
    scales = load_scales(found["model"].folder / SCALES).scales
    largest = load_scales(
        run_stage("calibrate", configured("calibrate", "calibrate.method=max"), model=float_model)[
            "model"
        ].folder
        / SCALES
    ).scales
    assert set(scales) == set(largest)
    activations = [s for s in scales.values() if s.kind == "activation"]
    assert {s.method for s in activations} == {"auto"}
    shares = [s.amax[0] / largest[s.name].amax[0] for s in activations]
    assert all(0 < share <= 1.05 * (1 + 1e-6) for share in shares)
    assert len({round(share, 3) for share in shares}) > 1
    for first, second in (("detect.cls_convs.0", "detect.reg_convs.0"),):
        names = [
            next(n for n in scales if n.startswith(p) and n.endswith(".input"))
            for p in (first, second)
        ]
        assert scales[names[0]].amax == scales[names[1]].amax


@pytest.mark.parametrize("method", ["max", "auto"])
def test_resampled_images_give_each_range_an_interval(
    configured: Configure, run_stage: RunStage, float_model: Artifact, method: str
) -> None:
    config = configured("calibrate", f"calibrate.method={method}", "calibrate.bootstrap=4")
    made = run_stage("calibrate", config, model=float_model)
    plain = run_stage("calibrate", replace(config, bootstrap=0), model=float_model)
    assert "ranges" not in plain
    assert made["model"].digests[SCALES] == plain["model"].digests[SCALES]
    document = json.loads(made["ranges"].path.read_text())
    scales = load_scales(made["model"].folder / SCALES).scales
    ranges = {entry["name"]: entry for entry in document["ranges"]}
    assert set(ranges) == {n for n, s in scales.items() if s.kind == "activation"}
    for name, entry in ranges.items():
        assert entry["amax"] == scales[name].amax[0]
        assert (
            0 < entry["low"] <= entry["mean"] <= entry["high"] or entry["standard_deviation"] == 0
        )
        if method == "max":  # no draw holds more than all images
            assert entry["high"] <= entry["amax"]
    assert document["num_resamples"] == 4
    assert any(entry["flagged"] for entry in ranges.values())  # four images are few


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["calibrate.bootstrap=1"], r"calibrate\.bootstrap: one resample has no spread"),
        (
            ["calibrate.method=auto", "calibrate.implementation=pytorch_quantization"],
            r"calibrate\.method: auto does not go with implementation=pytorch_quantization",
        ),
        (
            ["calibrate.bootstrap=9", "calibrate.implementation=pytorch_quantization"],
            r"calibrate\.bootstrap: 9 resamples do not go with implementation=pytorch_quantization",
        ),
        (
            ["calibrate.bootstrap=9", "calibrate.from_checkpoint=x.pt"],
            r"calibrate\.bootstrap: 9 resamples do not go with from_checkpoint=x.pt",
        ),
        (["calibrate.method=auto", "calibrate.percentile=99"], "99 means nothing to method=auto"),
        (["calibrate.max_spread=0"], r"calibrate\.max_spread: 0 is not above 0"),
    ],
)
def test_settings_that_contradict_are_refused(
    configured: Configure, overrides: list[str], match: str
) -> None:
    with pytest.raises(ConfigurationError, match=match):
        configured("calibrate", *overrides)


@pytest.mark.parametrize("implementation", ["quantpipe", "pytorch_quantization"])
def test_an_image_that_gives_a_nan_is_named(
    configured: Configure,
    run_stage: RunStage,
    trained: Checkpoint,
    context: Context,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    implementation: str,
) -> None:
    overrides = ("calibrate.method=max", f"calibrate.implementation={implementation}")
    config = configured("calibrate", *overrides, "calibrate.num_images=3")
    dataset = open_split(config.data, "train", context)
    broken = sample(len(dataset.images), 3, context.seed)[1]

    def damaged(*arguments: Any, **named: Any) -> Iterator[Tensor]:
        for number, images in enumerate(float_batches(*arguments, **{**named, "batch_size": 1})):
            yield images * (float("nan") if number == 1 else 1.0)

    monkeypatch.setattr("quantpipe.stages.calibrate.statistics.float_batches", damaged)
    # Other weights than those of the other tests, whose statistics are kept.
    tensors = {
        n: t * (1.001 if t.dtype.is_floating_point else 1) for n, t in trained.tensors.items()
    }
    save_checkpoint(tmp_path / CHECKPOINT, replace(trained, tensors=tensors))
    name = re.escape(dataset.images[broken].path.name)
    with pytest.raises(NumericalError, match=f"calibration image {name} gives a NaN .*stem"):
        run_stage("calibrate", config, model=artifact_at(tmp_path, MODEL))


def test_every_rank_gets_its_rows_of_every_batch(configured: Configure, context: Context) -> None:
    dataset = open_split(configured("calibrate").data, "train", context)
    images = CalibrationImages(
        dataset=dataset, chosen=range(5), specification=letterboxed(64), batch_size=4
    )
    whole = list(images.batches("cpu"))
    assert [len(batch) for batch in whole] == [4, 1]
    for rank in range(2):
        own = list(images.batches("cpu", rank=rank, num_ranks=2))
        assert len(own) == len(whole) == images.num_batches
        for part, batch in zip(own, whole, strict=True):
            assert part.equal(batch[rank::2])


@pytest.mark.slow
def test_two_ranks_find_the_ranges_of_one(
    configured: Configure, float_model: Artifact, context: Context, tmp_path: Path
) -> None:
    found = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)

        def materialize(
            named_by: Mapping[str, Any], build: Callable[[Path], None], folder: Path = folder
        ) -> Path:
            if "statistics" not in named_by:
                return context.materialize(named_by, build)
            folder.mkdir()
            build(folder)
            return folder

        config = configured("calibrate", f"trainer.devices={devices}", "calibrate.num_images=5")
        (tmp_path / f"run{devices}").mkdir()
        outputs = {
            name: tmp_path / f"run{devices}" / output.kind.files[0]
            for name, output in STAGE.outputs.items()
        }
        own = replace(context, materialize=materialize)
        STAGE.run(config, {"model": float_model}, outputs, own)
        found.append(load_scales(outputs["model"].with_name(SCALES)).scales)
    assert set(found[0]) == set(found[1])
    for name, scale in found[0].items():
        assert found[1][name].amax == pytest.approx(scale.amax, rel=1e-3)


def test_a_batch_that_ranks_cannot_share_is_refused(configured: Configure) -> None:
    config = configured("calibrate", "calibrate.batch_size=4")
    config = replace(config, trainer=replace(config.trainer, devices=3))
    with pytest.raises(ConfigurationError, match="4 images cannot be shared by 3 devices; take 6"):
        STAGE.check(config)


def folded(trained: Checkpoint) -> dict[str, Tensor]:
    return restore_detector(as_deployed(trained)).state_dict()


def test_biases_are_corrected_in_the_scales_and_the_checkpoint_is_the_trained_network(
    trained: Checkpoint, calibrated: Artifacts
) -> None:
    corrections = load_scales(calibrated["model"].folder / SCALES).bias_corrections
    tensors = load_checkpoint(calibrated["model"].path).tensors
    assert all(tensors[name].equal(tensor) for name, tensor in folded(trained).items())
    pool = "backbone.ERBlock_5.2.sppf.m"
    assert set(corrections) == set(operation_names(trained)) - {pool}
    assert all(len(v) == len(tensors[f"{n}.bias"]) for n, v in corrections.items())
    assert any(value != 0.0 for values in corrections.values() for value in values)


def test_nothing_changes_where_all_is_off(
    configured: Configure,
    run_stage: RunStage,
    float_model: Artifact,
    trained: Checkpoint,
    calibrated: Artifacts,
) -> None:
    config = configured("calibrate", "calibrate.bias_correction=false")
    made = run_stage("calibrate", config, model=float_model)
    scales = load_scales(made["model"].folder / SCALES)
    assert scales == replace(load_scales(calibrated["model"].folder / SCALES), bias_corrections={})
    tensors = load_checkpoint(made["model"].path).tensors
    assert all(tensors[name].equal(tensor) for name, tensor in folded(trained).items())


def test_better_integers_lie_in_the_weights_that_the_scales_name(
    configured: Configure,
    run_stage: RunStage,
    float_model: Artifact,
    calibrated: Artifacts,
    context: Context,
) -> None:
    config = configured("calibrate", "calibrate.weight_rounding=hessian")
    made = run_stage("calibrate", config, model=float_model)
    again = run_stage("calibrate", config, model=float_model)
    assert made["model"].digests[CHECKPOINT] == again["model"].digests[CHECKPOINT]
    assert made["model"].digests[SCALES] == again["model"].digests[SCALES]
    scales, plain = (load_scales(a["model"].folder / SCALES) for a in (made, calibrated))
    assert scales.scales == plain.scales
    fitted, before = (load_checkpoint(a["model"].path) for a in (made, calibrated))
    assert scales.weights_digest == fitted.weights_digest != before.weights_digest
    moved = [
        int((codes_of(fitted.tensors[n], s) != codes_of(before.tensors[n], s)).sum())
        for n, s in scales.scales.items()
        if s.kind == "weight"
    ]
    assert sum(count > 0 for count in moved) > len(moved) / 2


def test_what_was_done_is_said(
    configured: Configure, float_model: Artifact, context: Context, tmp_path: Path
) -> None:
    config = configured("calibrate", "calibrate.weight_rounding=hessian")
    outputs = {key: tmp_path / output.kind.files[0] for key, output in STAGE.outputs.items()}
    metrics = STAGE.run(config, {"model": float_model}, outputs, context)
    scales = load_scales(outputs["model"].with_name(SCALES))
    assert metrics["biases_corrected"] == sum(map(len, scales.bias_corrections.values()))
    assert metrics["adjusted_to_images"] == 4
    assert 0 < metrics["weights_rounded_otherwise"] < metrics["num_weights"]
    assert 0 < metrics["mean_shift"] < 1


@pytest.mark.parametrize(
    "setting",
    ["weight_rounding=up", "adjustment.damping=0", "adjustment.num_images=0", "bias_correction=1"],
)
def test_settings_that_mean_nothing_are_refused(configured: Configure, setting: str) -> None:
    with pytest.raises(ConfigurationError, match=setting.split("=")[0]):
        configured("calibrate", f"calibrate.{setting}")
