import io
from dataclasses import replace

from rich.console import Console

from quantpipe.report.summary import Summary
from quantpipe.report.table import print_summary, stage_text, variant_text


def _printed(summary: Summary, width: int) -> str:
    stream = io.StringIO()
    print_summary(summary, Console(file=stream, width=width))
    return stream.getvalue()


def test_variants_read_like_the_published_table(summary: Summary) -> None:
    table = variant_text(summary)
    columns = dict(zip(table.headers, zip(*table.rows, strict=True), strict=True))
    assert columns["variant"] == ("fp32", "half", "qat", "qat")
    assert columns["precision"] == ("fp32", "half", "int8", "skipped")
    assert columns["mAP 50:95"] == ("43.1", "43.0", "43.3", "-")
    assert columns["drop"] == ("0.0", "0.1", "-0.2", "-")
    assert columns["agreement"] == ("-", "-", "97.1", "-")
    assert columns["ms b1"] == ("-", "2.65", "1.68", "-")
    assert columns["fps b1"] == ("-", "377", "596", "-")
    assert columns["fps b32"] == ("-", "541", "844", "-")
    assert columns["vs half"] == ("-", "1.00x / 1.00x", "1.58x / 1.56x", "-")
    assert columns["MB"] == ("-", "34.6", "17.9", "-")
    assert columns["float layers"] == ("-", "-", "0", "-")


def test_stages(summary: Summary) -> None:
    rows = stage_text(summary.stages).rows
    assert rows == (("train_repopt", "1:00", "yes"), ("calibrate", "15 s", ""))


def test_printed_text_is_plain_off_a_terminal_and_names_the_skipped(summary: Summary) -> None:
    qat = replace(summary.variants[2], engine="[red]x")  # brackets are text, not markup
    variants = (*summary.variants[:2], qat, *summary.variants[3:])
    printed = _printed(replace(summary, variants=variants), width=150)
    assert "[red]x" in printed
    assert "596" in printed
    assert "qat on openvino was skipped: openvino is not installed" in printed
    assert "\x1b" not in printed


def test_nothing_is_cut_on_a_narrow_terminal(summary: Summary) -> None:
    printed = _printed(summary, width=80)
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 80
