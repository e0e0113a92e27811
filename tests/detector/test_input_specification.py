from __future__ import annotations

from typing import Any

import pytest
from tests.input_specifications import letterboxed

from quantpipe.errors import ConfigurationError


def test_a_square_is_shown_by_its_side_and_a_rectangle_by_both() -> None:
    assert letterboxed(640).shown == 640
    assert letterboxed(384, 640).shown == "384x640"
    assert letterboxed(384, 640).size == (384, 640)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"height": 0}, "height: 0 is not from 1 to 16384"),
        ({"width": 1 << 15}, "width: 32768 is not from 1 to 16384"),
        ({"padding": 256}, "padding: 256 is not from 0 to 255"),
        ({"std": (1.0, 0.0, 1.0)}, "std: divisor and std are not all above 0"),
        ({"divisor": 0.0}, "std: divisor and std are not all above 0"),
    ],
)
def test_what_no_network_takes_is_refused(change: dict[str, Any], line: str) -> None:
    given = {"height": 64, "width": 64} | change
    with pytest.raises(ConfigurationError) as caught:
        letterboxed(**given)
    assert str(caught.value) == line
