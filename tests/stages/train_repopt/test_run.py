from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.detector.released.original_trainer import original_network, save_original
from tests.detector.released.released_package import first_generation, save_released
from tests.stages.conftest import Configure, RunStage

from quantpipe.core.artifact import Artifact
from quantpipe.core.stage import Context
from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.checkpoint_family import restore_detector
from quantpipe.detector.checkpoint_file import load_checkpoint, save_checkpoint
from quantpipe.detector.families.yolov6.checkpoint import description
from quantpipe.detector.families.yolov6.network import build_detector
from quantpipe.detector.families.yolov6.rep_optimizer import extract_scales, released_scales
from quantpipe.detector.released import READING
from quantpipe.errors import ArtifactError
from quantpipe.identity import identity
from quantpipe.progress import Silent
from quantpipe.stages.train_repopt import STAGE


def test_a_missing_file_is_found_before_any_work(configured: Configure) -> None:
    for name in ("checkpoint", "scales"):
        config = configured("train_repopt")
        with pytest.raises(
            ArtifactError, match=rf"nowhere: no such file; see train_repopt\.{name}"
        ):
            STAGE.check(replace(config, **{name: Path("nowhere")}))


def test_files_are_named_by_their_content(configured: Configure, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for path in (first, second):
        path.write_bytes(b"weights")
    config = configured("train_repopt")
    alone = STAGE.content(config, tmp_path)
    one = STAGE.content(replace(config, checkpoint=first), tmp_path)
    assert alone["checkpoint"] is None
    # What was made of a file is made again where files come to be read otherwise.
    assert "reading" not in alone
    assert one["reading"] == READING
    assert one == STAGE.content(replace(config, checkpoint=second), tmp_path)
    second.write_bytes(b"Weights")
    assert one != STAGE.content(replace(config, checkpoint=second), tmp_path)
    assert identity(replace(config, checkpoint=first)) == identity(
        replace(config, checkpoint=second)
    )


def test_the_number_of_workers_changes_no_result(configured: Configure) -> None:
    config = configured("train_repopt")
    assert identity(replace(config, num_workers=8)) == identity(config)
    assert identity(replace(config, epochs=2)) != identity(config)


def test_a_checkpoint_that_is_given_is_taken_as_it_is(
    configured: Configure, run_stage: RunStage, float_model: Artifact
) -> None:
    config = replace(configured("train_repopt"), checkpoint=float_model.path)
    made = run_stage("train_repopt", config)
    assert set(made) == {"model"}
    assert made["model"].digests == float_model.digests


def test_a_checkpoint_of_other_classes_or_another_model_is_refused(
    configured: Configure, run_stage: RunStage, trained: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "given.safetensors"
    save_checkpoint(path, replace(trained, class_names=("cat", "dog")))
    with pytest.raises(ArtifactError, match=r"knows the classes cat, dog, the data set circle, "):
        run_stage("train_repopt", replace(configured("train_repopt"), checkpoint=path))
    save_checkpoint(path, trained)
    other = configured("train_repopt", "model.width=0.25", "model.name=wider")
    with pytest.raises(ArtifactError, match="is of model shapes_detector, not wider"):
        run_stage("train_repopt", replace(other, checkpoint=path))


def test_a_damaged_checkpoint_is_refused(
    configured: Configure, run_stage: RunStage, float_model: Artifact, tmp_path: Path
) -> None:
    path = tmp_path / "given.safetensors"
    content = bytearray(float_model.path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError):
        run_stage("train_repopt", replace(configured("train_repopt"), checkpoint=path))


def test_a_public_checkpoint_is_taken_and_written_back_in_its_names(
    configured: Configure, run_stage: RunStage, trained: Checkpoint, tmp_path: Path
) -> None:
    halved = {
        n: t.half().float() if t.is_floating_point() else t for n, t in trained.tensors.items()
    }
    path = save_released(tmp_path / "public.pt", first_generation(halved), ema=None)
    config = replace(configured("train_repopt"), checkpoint=path, write_state_dict=True)
    made = run_stage("train_repopt", config)
    assert set(made) == {"model", "state_dict"}
    read = load_checkpoint(made["model"].path)
    assert read.class_names == trained.class_names
    plain = torch.load(made["state_dict"].path, weights_only=True)
    for tensors in (read.tensors, plain):
        assert all(torch.equal(tensors[name], tensor) for name, tensor in halved.items())


def test_a_calibrated_released_file_is_taken_and_what_it_leaves_out_is_said(
    configured: Configure, context: Context, trained: Checkpoint, tmp_path: Path
) -> None:
    with original_network(restore_detector(trained), calibrated=True, half=False) as module:
        path = save_original(tmp_path / "yolov6_calib.pt", module)
    config = replace(configured("train_repopt"), checkpoint=path)
    outputs = {key: tmp_path / output.kind.files[0] for key, output in STAGE.outputs.items()}
    notes: list[str] = []
    progress = Silent()
    progress.note = notes.append  # type: ignore[assignment,method-assign]
    STAGE.run(config, {}, outputs, replace(context, progress=progress))
    assert notes == [
        "step: yolov6_calib.pt: left out: 119 quantizer tensors; "
        "calibrate.from_checkpoint reads them"
    ]
    read = load_checkpoint(outputs["model"])
    assert all(torch.equal(read.tensors[name], t) for name, t in trained.tensors.items())


def test_a_public_search_gives_its_scales(trained: Checkpoint, tmp_path: Path) -> None:
    search = build_detector(description(trained).architecture, "linear_add", seed=0)
    with torch.no_grad():
        for name, parameter in search.named_parameters():
            if ".scale_" in name:
                parameter.copy_(torch.rand(parameter.shape).half())
    scales = extract_scales(search)
    read = released_scales(save_released(tmp_path / "scale.pt", search.state_dict()))
    assert set(read) == set(scales)
    for block, scale in scales.items():
        for part, tensor in vars(scale).items():
            found = getattr(read[block], part)
            assert (found is None) == (tensor is None)
            assert tensor is None or torch.equal(found, tensor)


def test_a_public_checkpoint_without_scales_is_refused(trained: Checkpoint, tmp_path: Path) -> None:
    path = save_released(tmp_path / "public.pt", trained.tensors)
    with pytest.raises(ArtifactError, match="holds no scales"):
        released_scales(path)
