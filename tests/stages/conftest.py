"""An untrained network whose statistics fit its images, and what the stages make of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from quantpipe.cli.composition import config_folder
from quantpipe.cli.config import read_run
from quantpipe.core.artifact import Artifact, ArtifactKind
from quantpipe.core.entry import key_of
from quantpipe.core.stage import Context
from quantpipe.data.images import read_image
from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.checkpoint_file import save_checkpoint
from quantpipe.detector.families.yolov6.checkpoint import Description
from quantpipe.detector.families.yolov6.family import architecture, input_of
from quantpipe.detector.families.yolov6.network import Detector, build_detector
from quantpipe.files import sha256_file
from quantpipe.progress import Silent
from quantpipe.quantization.model_files import CHECKPOINT, SCALES
from quantpipe.settings.data import open_split
from quantpipe.stages import STAGES
from quantpipe.stages.artifacts import MODEL

SMALL = (
    "device=cpu",
    "engine=onnxruntime",
    "engine.batch_sizes=[1,2]",
    "model.width=0.125",
    "model.image_size=64",
    "data.num_train=8",
    "data.num_val=4",
    "data.num_classes=2",
    "data.difficulty=0",
    "calibrate.num_images=4",
    "calibrate.batch_size=2",
    "sensitivity.num_images=2",
    "sensitivity.batch_size=2",
    "evaluate.num_warmup=0",
    "evaluate.num_runs=2",
    "evaluate.parity.num_images=2",
    "evaluate.num_examples=1",
    "export.simplify=false",
)

Artifacts = Mapping[str, Artifact]


def artifact_at(folder: Path, kind: ArtifactKind, inputs: Artifacts | None = None) -> Artifact:
    """The files of a kind that are in a folder, as the runner hands them on."""
    there = [name for name in (*kind.files, *kind.optional_files) if (folder / name).is_file()]
    digests = {name: sha256_file(folder / name) for name in there}
    return Artifact(kind=kind, folder=folder, digests=digests, sources=inputs or {})


Configure = Callable[..., Any]
RunStage = Callable[..., Artifacts]


@pytest.fixture(scope="session")
def configured() -> Configure:
    """``configured(step, *overrides)``: the shipped configuration of a step, made small."""

    def configure(name: str, *overrides: str) -> Any:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            config = compose("config", overrides=[*SMALL, *overrides])
        steps = read_run(config, overrides).pipeline.steps
        return next(step.config for step in steps if step.name == name)

    return configure


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where generated images are kept for all tests of the session."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def context(shared: Path) -> Context:
    """What a step knows, with generated data that is made once."""

    def materialize(named_by: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
        folder = shared / key_of(named_by)
        if not folder.exists():
            folder.mkdir()
            build(folder)
        return folder

    return Context(
        step="step",
        seed=0,
        device="cpu",
        progress=Silent(),
        progress_folder=shared / "progress",
        materialize=materialize,
        memo=shared / "memo",
    )


@pytest.fixture(scope="session")
def run_stage(tmp_path_factory: pytest.TempPathFactory, context: Context) -> RunStage:
    """``run_stage(stage, config, **inputs)``: what it wrote; its metrics are checked as JSON."""

    def run(name: str, config: Any, **inputs: Artifact) -> Artifacts:
        stage = STAGES[name]
        folder = tmp_path_factory.mktemp(name)
        outputs = {key: folder / out.kind.files[0] for key, out in stage.outputs.items()}
        own = replace(context, progress_folder=folder / "progress")
        metrics = stage.run(config, inputs, outputs, own)
        assert key_of({"metrics": metrics})
        made = {
            key: artifact_at(folder, output.kind, inputs)
            for key, output in stage.outputs.items()
            if outputs[key].is_file()
        }
        assert {key for key, output in stage.outputs.items() if output.required} <= set(made)
        return made

    return run


@pytest.fixture(scope="session")
def trained(configured: Configure, context: Context, shared: Path) -> Checkpoint:
    """Random weights; BatchNorm's statistics are those of the images, or outputs would explode."""
    config = configured("train_repopt")
    dataset = open_split(config.data, "train", context)
    shape = architecture(config.model, num_classes=len(dataset.class_names))
    network = build_detector(shape, "repopt", seed=1)
    pixels = [torch.from_numpy(read_image(record.path).copy()) for record in dataset.images]
    _fit_statistics(network, torch.stack(pixels).permute(0, 3, 1, 2).float() / 255)
    tensors = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    return Checkpoint(
        family="yolov6",
        settings=Description(shape, "repopt").settings(),
        class_names=dataset.class_names,
        input=input_of((64, 64)),
        tensors=tensors,
        provenance={"step": "test"},
    )


def _fit_statistics(network: Detector, images: torch.Tensor) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average of what it sees
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network.predict(images)


@pytest.fixture(scope="session")
def float_model(trained: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The model of ``trained``."""
    folder = tmp_path_factory.mktemp("float_model")
    save_checkpoint(folder / CHECKPOINT, trained)
    return artifact_at(folder, MODEL)


@pytest.fixture(scope="session")
def calibrated(configured: Configure, run_stage: RunStage, float_model: Artifact) -> Artifacts:
    """What the calibration made of it."""
    return run_stage("calibrate", configured("calibrate"), model=float_model)


@pytest.fixture(scope="session")
def exported(configured: Configure, run_stage: RunStage, calibrated: Artifacts) -> Artifacts:
    """The float graph."""
    return run_stage("export", configured("export.fp32"), model=calibrated["model"])


@pytest.fixture
def misfit(float_model: Artifact, calibrated: Artifacts, tmp_path: Path) -> Artifact:
    """A float model beside the scales of other weights: of those that calibration folded."""
    folder = tmp_path / "misfit"
    folder.mkdir()
    shutil.copyfile(float_model.path, folder / CHECKPOINT)
    shutil.copyfile(calibrated["model"].folder / SCALES, folder / SCALES)
    return artifact_at(folder, MODEL)
