from __future__ import annotations

from pathlib import Path

import pytest

from quantpipe.cli.cache import CacheSettings, keep_house
from quantpipe.core.entry import Built, key_of
from quantpipe.core.run_cache import RunCache
from quantpipe.errors import ArtifactError, ConfigurationError

IDENTITY = {"stage": "calibrate"}


def settings(action: str, runs: Path, **changes: float) -> CacheSettings:
    values = {"max_age_days": None, "max_gib": None, **changes}
    return CacheSettings(action=action, runs=runs, **values)  # type: ignore[arg-type]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    def write(folder: Path) -> Built:
        (folder / "scales.json").write_text("{}")
        return Built(metrics={}, seconds=1.0)

    store = RunCache(tmp_path / "cache", warn=print)
    return store.get_or_build(key_of(IDENTITY), IDENTITY, write)[0].folder


def test_the_list_names_the_stage(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_house(settings("list", tmp_path), tmp_path / "cache")
    printed = capsys.readouterr().out
    assert "calibrate" in printed
    assert "1 result," in printed


def test_the_totals_count_saved_progress_and_what_was_set_aside(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("progress/aa", "quarantine/bb.1"):
        (tmp_path / "cache" / place).mkdir(parents=True)
        (tmp_path / "cache" / place / "state").write_bytes(bytes(1 << 20))
    keep_house(settings("list", tmp_path), tmp_path / "cache")
    printed = capsys.readouterr().out
    assert "1 result, 1 saved progress, 1 set aside, 2.0 MiB" in printed


def test_the_list_says_where_no_run_is_known(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_house(settings("list", tmp_path / "gone"), tmp_path / "cache")
    assert "(cache.runs) is not there: no run is known" in capsys.readouterr().out


def test_verify_says_that_all_is_whole(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_house(settings("verify", tmp_path), tmp_path / "cache")
    assert "all whole" in capsys.readouterr().out


def test_verify_ends_with_the_number_of_damaged_results(cache: Path, tmp_path: Path) -> None:
    (cache / "scales.json").write_text("[]")
    with pytest.raises(ArtifactError, match=r"1 of 1 .* calibrate .*digest of scales.json"):
        keep_house(settings("verify", tmp_path), tmp_path / "cache")
    assert not cache.exists()


def test_prune_wants_the_folder_of_the_runs(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not there"):
        keep_house(settings("prune", tmp_path / "gone", max_age_days=0), tmp_path / "cache")
    assert cache.exists()


def test_prune_keeps_what_was_just_used(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_house(settings("prune", tmp_path, max_age_days=0), tmp_path / "cache")
    assert "1 result, 0.0 MiB stay" in capsys.readouterr().out
    assert cache.exists()


def test_a_folder_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cache_dir: .* holds no cache"):
        keep_house(settings("list", tmp_path), tmp_path)
