"""What a training on several processes needs is looked at before any of them starts."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest

from quantpipe.errors import ConfigurationError
from quantpipe.progress import Silent
from quantpipe.training.fit import TrainingJob, fit


def test_fewer_images_than_processes_are_refused() -> None:
    values: dict[str, Any] = dict.fromkeys(field.name for field in fields(TrainingJob))
    values["dataset"] = SimpleNamespace(images=(1, 2, 3))
    values["execution"] = SimpleNamespace(num_processes=4)
    with pytest.raises(ConfigurationError, match="is 4, but there are 3 images") as caught:
        fit(TrainingJob(**values), held_out=None, log_folder=None, progress=Silent())
    assert caught.value.path == "trainer.devices"
    assert caught.value.hint == "set trainer.devices=3 or fewer"
