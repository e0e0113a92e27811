from __future__ import annotations

import io

from faults.table import printed
from faults.tally import Tally
from rich.console import Console


def text(*, markdown: bool) -> str:
    tally = Tally(campaign="one", rows=(8, 1, 2, 3, 5), seed=7)
    tally.record("a kill", None)
    tally.record("a cut", "lost a file")
    tally.bytes_lost = 12345
    out = io.StringIO()
    printed(Console(file=out, width=200), [tally, tally], markdown)
    return out.getvalue()


def test_each_campaign_has_a_row_and_all_have_a_sum() -> None:
    table = text(markdown=False)
    one = next(line for line in table.splitlines() if line.strip().startswith("one"))
    assert one.split()[:6] == ["one", "1-3,", "5,", "8", "2", "1"]
    assert "24,690" in next(line for line in table.splitlines() if "all" in line)


def test_a_document_gets_whole_lines() -> None:
    lines = [line for line in text(markdown=True).splitlines() if line.strip()]
    assert all(line.startswith("|") and line.endswith("|") for line in lines)
    assert lines[0].count("|") == lines[2].count("|")


def test_a_failure_is_told_with_its_fault() -> None:
    tally = Tally(campaign="one", rows=(), seed=0)
    tally.record("a cut", "lost a file")
    assert (tally.tried, tally.survived, tally.failures) == (1, 0, ["a cut: lost a file"])
