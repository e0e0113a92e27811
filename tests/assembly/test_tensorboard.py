from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from quantpipe.assembly.tensorboard import TensorBoardLog
from quantpipe.errors import MachineError
from quantpipe.settings import recipe as settings

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve, read by TensorBoard's own reader."""
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(event.step, round(event.value, 6)) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def log(folder: Path) -> TensorBoardLog:
    return TensorBoardLog(folder, lambda network: [np.full((4, 6, 3), 7, dtype=np.uint8)])


def test_losses_rates_map_and_examples_are_written(tmp_path: Path) -> None:
    written = log(tmp_path)
    written.step(1, {"loss": 2.5, "cls": 1.0}, {"lr": 0.01})
    written.step(2, {"loss": 2.0, "cls": 0.5}, {"lr": 0.02})
    written.validated(2, 0.25, nn.Identity())
    written.close()
    assert curves(tmp_path) == {
        "loss/loss": [(1, 2.5), (2, 2.0)],
        "loss/cls": [(1, 1.0), (2, 0.5)],
        "rate/lr": [(1, 0.01), (2, 0.02)],
        "mAP 50:95": [(2, 0.25)],
    }
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    (image,) = events.Images("validation/0")
    assert (image.width, image.height) == (6, 4)


def test_a_resumed_training_shows_no_step_twice(tmp_path: Path) -> None:
    first = log(tmp_path)
    for step in (1, 2, 3):
        first.step(step, {"loss": 1.0}, {})
    first.close()
    again = log(tmp_path)  # from the state of step 1
    for step in (2, 3, 4):
        again.step(step, {"loss": 2.0}, {})
    again.close()
    assert curves(tmp_path)["loss/loss"] == [(1, 1.0), (2, 2.0), (3, 2.0), (4, 2.0)]


def test_a_log_that_is_never_told_anything_writes_nothing(tmp_path: Path) -> None:
    log(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_is_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.check_log(tmp_path)
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    settings.check_log(None)
    with pytest.raises(MachineError, match=r"pip install 'quantpipe\[tensorboard\]'"):
        settings.check_log(tmp_path)
