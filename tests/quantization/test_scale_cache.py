from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantpipe.errors import ArtifactError
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.scale_cache import ScaleCache, TensorScale, load_scales, save_scales


@pytest.fixture
def saved(tmp_path: Path, scales: ScaleCache) -> Path:
    path = tmp_path / "scales.json"
    save_scales(path, scales)
    return path


def test_bias_corrections_come_back_exactly(tmp_path: Path, scales: ScaleCache) -> None:
    corrected = replace(scales, bias_corrections={"stem": (0.1, -1e-9, 3.0)})
    save_scales(tmp_path / "scales.json", corrected)
    assert load_scales(tmp_path / "scales.json") == corrected


def test_round_trip_is_exact(saved: Path, scales: ScaleCache) -> None:
    loaded = load_scales(saved)
    assert loaded == scales
    assert list(loaded.scales) == list(scales.scales)


def test_saving_twice_gives_the_same_bytes(saved: Path, scales: ScaleCache, tmp_path: Path) -> None:
    save_scales(tmp_path / "again.json", load_scales(saved))
    assert (tmp_path / "again.json").read_bytes() == saved.read_bytes()


def test_scale_is_amax_over_127(scales: ScaleCache) -> None:
    scale = scales.scales["down.input"]
    assert scale.number_format.max_level == 127
    assert scale.scale == (scale.amax[0] / 127,)
    assert scale.operation == "down"


def test_other_weights_are_refused_with_both_digests(scales: ScaleCache) -> None:
    scales.require_weights("w" * 64)
    with pytest.raises(ArtifactError, match=f"{'w' * 64}.*{'x' * 64}"):
        scales.require_weights("x" * 64)


@pytest.mark.parametrize("length", [0, 1, 100, -2, -20])
def test_truncated_file_is_refused(saved: Path, length: int) -> None:
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(ArtifactError, match=r"scales\.json"):
        load_scales(saved)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        load_scales(tmp_path / "none.json")


def test_the_version_before_is_refused_in_one_line(saved: Path) -> None:
    saved.write_text(json.dumps({"format": "quantpipe-scales", "version": 2, "scales": []}))
    with pytest.raises(ArtifactError) as caught:
        load_scales(saved)
    assert str(caught.value) == (
        f"{saved}: quantpipe-scales version 2 is not known; this release reads version 3"
    )


def set_first(key: str, value: object) -> Callable[[Any], None]:
    def mutate(document: Any) -> None:
        document["scales"][0][key] = value

    return mutate


MUTATIONS: dict[str, Callable[[Any], object]] = {
    "NaN": set_first("amax", [float("nan")]),
    "infinite": set_first("amax", [float("inf")]),
    "zero": set_first("amax", [0.0]),
    "negative": set_first("amax", [-1.0]),
    "none": set_first("amax", []),
    "two without axis": set_first("amax", [1.0, 2.0]),
    "text": set_first("amax", ["1.0"]),
    "bool": set_first("amax", [True]),
    "kind": set_first("kind", "bias"),
    "name": set_first("name", "stem"),
    "number format": set_first("number_format", "int16"),
    "number format as bits": set_first("number_format", 8),
    "axis": set_first("axis", 2),
    "axis as text": set_first("axis", "0"),
    "row": lambda d: d["scales"].__setitem__(0, 3),
    "twice": lambda d: d["scales"].append(d["scales"][0]),
    "no digest": lambda d: d.pop("weights_digest"),
    "preprocessing": lambda d: d["preprocessing"].update(image_size=[32]),
    "version": lambda d: d.update(version=4),
    "unknown entry": lambda d: d["scales"][0].update(bits=8),
    "correction of nothing": lambda d: d["bias_corrections"].update(none=[1.0]),
    "empty correction": lambda d: d["bias_corrections"].update(stem=[]),
    "infinite correction": lambda d: d["bias_corrections"].update(stem=[float("inf")]),
    "correction as text": lambda d: d["bias_corrections"].update(stem="1.0"),
    "no corrections": lambda d: d.pop("bias_corrections"),
    "format": lambda d: d.update(format="other"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_damage_is_refused(saved: Path, mutation: str) -> None:
    document = json.loads(saved.read_text())
    MUTATIONS[mutation](document)
    saved.write_text(json.dumps(document))
    with pytest.raises(ArtifactError) as caught:
        load_scales(saved)
    assert caught.value.path == saved


def test_overflowing_number_is_refused(saved: Path) -> None:
    text, replaced = re.subn(r'("amax": \[\s*)[-0-9.e]+', r"\g<1>1e999", saved.read_text(), count=1)
    assert replaced == 1
    saved.write_text(text)
    with pytest.raises(ArtifactError, match="was changed after it was written"):
        load_scales(saved)
    saved.write_text(re.sub(r',\s*"document_sha256": "\w+"', "", text))
    with pytest.raises(ArtifactError, match="inf is not a finite number"):
        load_scales(saved)


def test_a_range_that_is_none_cannot_be_made() -> None:
    with pytest.raises(ArtifactError, match="amax of 0"):
        TensorScale(
            name="a.input",
            kind="activation",
            axis=None,
            amax=(0.0,),
            number_format=INT8,
            method="max",
        )


def test_every_changed_digit_is_noticed_and_one_written_by_hand_is_taken(
    saved: Path, scales: ScaleCache
) -> None:
    text, refused = saved.read_text(), 0
    for found in re.finditer(r"\d", text):
        other = str((int(found[0]) + 1) % 10)
        saved.write_text(text[: found.start()] + other + text[found.end() :])
        try:
            assert load_scales(saved) == scales  # the digest's own name, or a digit too many
        except ArtifactError:
            refused += 1
    assert refused > 500
    whole = json.loads(text)
    del whole["document_sha256"]
    whole["scales"][0]["amax"] = [2.5]
    saved.write_text(json.dumps(whole))
    assert next(iter(load_scales(saved).scales.values())).amax == (2.5,)
