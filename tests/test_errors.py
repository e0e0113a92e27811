from __future__ import annotations

import pytest

from quantpipe.errors import ArtifactError, nearest


def test_a_line_holds_stage_path_cause_and_hint() -> None:
    error = ArtifactError("is damaged", path="a.pt", hint="get it again")
    error.stage = "calibrate"
    assert str(error) == "calibrate: a.pt: is damaged; get it again"


@pytest.mark.parametrize("text", ["\x1b[2J", "a\rb\x00", "\udcff", "two\nlines"])
def test_what_a_file_holds_cannot_redraw_the_terminal(text: str) -> None:
    line = str(ArtifactError(f"holds {text}", path=f"{text}.pt"))
    assert line.isprintable()
    line.encode()


def test_the_nearest_name_is_offered() -> None:
    assert nearest("calibrat", ["calibrate", "export"]) == "did you mean 'calibrate'?"
    assert nearest("x", []) == "none is known"
