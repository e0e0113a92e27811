from __future__ import annotations

from typing import Any

import pytest

from quantpipe.errors import ConfigurationError
from quantpipe.settings.trainer import TrainerSettings, check_ranks, with_precision


def trainer(**changes: Any) -> TrainerSettings:
    return TrainerSettings(**({"devices": 1, "precision": None, "timeout_s": 60.0} | changes))


def test_a_batch_is_shared_evenly_or_refused() -> None:
    check_ranks(16, trainer(devices=4))
    with pytest.raises(ConfigurationError, match=r"16 images .* by 3 devices; take 18"):
        check_ranks(16, trainer(devices=3))


@pytest.mark.parametrize(
    ("precision", "mixed"), [(None, None), ("32-true", False), ("bf16-mixed", True)]
)
def test_the_trainers_precision_comes_first(precision: Any, mixed: bool | None) -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Schedule:
        mixed_precision: bool

    for own in (False, True):
        found = with_precision(Schedule(own), trainer(precision=precision))  # type: ignore[arg-type]
        assert found.mixed_precision == (own if mixed is None else mixed)
