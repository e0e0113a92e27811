import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from quantpipe.report.figures import accuracy_latency_chart
from quantpipe.report.html import (
    Chart,
    Example,
    Report,
    headline_variant,
    key_numbers,
    render_report,
    write_report,
)
from quantpipe.report.summary import Summary

_VOID = {"meta", "link", "br", "img"}
EVIL = "<script>alert('x')</script>"


class Page(HTMLParser):
    """Collects tags, addresses and text, and notices tags that do not close."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in _VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _report(summary: Summary) -> Report:
    chart = accuracy_latency_chart(summary)
    assert chart is not None
    return Report(
        summary=summary,
        charts=[Chart(title="Accuracy", caption="Up is better.", svg=chart)],
        examples=[Example(title="a.jpg", pictures=(("fp32", "data:,1"), ("qat", "data:,2")))],
        settings={"calibrate": {"method": "entropy", "loader": {"workers": 2}}},
        provenance={"weights": "sha256 ab12"},
    )


def test_page_is_whole_and_reaches_for_nothing(summary: Summary) -> None:
    text = render_report(_report(summary))
    page = Page(text)
    assert page.open == []
    assert set(page.addresses) == {"data:,", "data:,1", "data:,2"}
    assert "default-src 'none'" in text
    assert "script" not in page.tags
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", text)
    for shown in ("596", "844", "1.58x", "entropy", "loader.workers", "sha256 ab12", "calibrate"):
        assert shown in page.text
    assert "openvino is not installed" in page.text
    assert "svg" in page.tags


def test_text_of_others_is_escaped(summary: Summary) -> None:
    qat = replace(summary.variants[2], engine=EVIL)
    summary = replace(
        summary,
        run=replace(summary.run, data=EVIL),
        variants=(*summary.variants[:2], qat, *summary.variants[3:]),
    )
    report = _report(summary)
    evil = Report(
        summary=summary,
        charts=[Chart(title=EVIL, caption=EVIL, svg="<svg></svg>")],
        examples=[Example(title=f'"{EVIL}', pictures=((EVIL, "data:,"),))],
        settings={EVIL: {EVIL: EVIL}},
        provenance={EVIL: EVIL},
    )
    page = Page(render_report(evil))
    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 9
    assert Page(render_report(report)).open == []


def test_headline_is_the_best_quantized_variant(summary: Summary) -> None:
    best = headline_variant(summary)
    assert best is not None
    assert (best.name, best.engine) == ("qat", "tensorrt")
    numbers = {number.label: number.value for number in key_numbers(summary, best)}
    assert numbers == {
        "mAP 50:95": "43.3",
        "gained over float": "0.2",
        "the speed of half precision at batch 1: 596 fps": "1.58x",
        "the speed of half precision at batch 32: 844 fps": "1.56x",
        "engine size": "17.9",
    }


def test_a_run_without_quantized_or_measured_variants_has_a_page_too(summary: Summary) -> None:
    summary = replace(summary, variants=summary.variants[:1])
    best = headline_variant(summary)
    assert best is not None
    assert best.name == "fp32"
    summary = replace(summary, variants=(), stages=())
    empty = Report(summary=summary, charts=(), examples=(), settings={}, provenance={})
    assert headline_variant(summary) is None
    assert Page(render_report(empty)).open == []


def test_equal_input_gives_equal_bytes(summary: Summary, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, _report(summary))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_importing_the_report_loads_neither_matplotlib_nor_torch() -> None:
    code = (
        "import sys; import quantpipe.report.figures, quantpipe.report.html;"
        "import quantpipe.report.progress, quantpipe.report.sweep, quantpipe.report.pictures;"
        "sys.exit(bool({'matplotlib', 'torch', 'cv2', 'pycocotools'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )
