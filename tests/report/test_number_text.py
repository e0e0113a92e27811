import pytest

from quantpipe.report.number_text import (
    count,
    decimal,
    duration,
    milliseconds,
    percent,
    rate,
    ratio,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(0.4338), "43.4"),
        (percent(-0.0001), "0.0"),
        (percent(-0.002, 2), "-0.20"),
        (percent(None), "-"),
        (rate(9.93), "9.9"),
        (rate(595.7), "596"),
        (rate(None), "-"),
        (ratio(1.5809), "1.58x"),
        (milliseconds(1.678), "1.68"),
        (milliseconds(54.31), "54.3"),
        (milliseconds(200.4), "200"),
        (decimal(17.94), "17.9"),
        (count(0), "0"),
        (count(None), "-"),
        (duration(0.04), "0.0 s"),
        (duration(9.96), "10 s"),
        (duration(59.6), "1:00"),
        (duration(185), "3:05"),
        (duration(3723), "1:02:03"),
    ],
)
def test_text(text: str, expected: str) -> None:
    assert text == expected
