from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quantpipe.quantization.records import SavedRecords


@pytest.fixture
def records(tmp_path: Path) -> SavedRecords:
    return SavedRecords(folder=tmp_path / "progress", identity="these scales")


def test_arrays_come_back_as_they_were(records: SavedRecords) -> None:
    written = {"a": np.array([0.1, 1 / 3]), "b": np.zeros((0, 4), np.float32), "c": np.array(7)}
    records.write("0000-detect.stems.0", written)
    read = records.read("0000-detect.stems.0")
    assert read is not None
    assert set(read) == set(written)
    for name, array in written.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_what_was_not_written_is_not_there(records: SavedRecords) -> None:
    assert records.read("x") is None


def test_records_of_another_identity_or_name_are_none(records: SavedRecords) -> None:
    records.write("x", {"a": np.array(1.0)})
    assert SavedRecords(folder=records.folder, identity="others").read("x") is None
    (records.folder / "y.npz").write_bytes((records.folder / "x.npz").read_bytes())
    assert records.read("y") is None


def test_damage_is_noticed(records: SavedRecords) -> None:
    records.write("x", {"a": np.arange(100.0)})
    path = records.folder / "x.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    assert records.read("x") is None
    path.write_bytes(b"")
    assert records.read("x") is None
    at = whole.index(np.float64(37.0).tobytes())
    path.write_bytes(whole[:at] + b"\x01" + whole[at + 1 :])
    assert records.read("x") is None
    path.write_bytes(whole)
    assert records.read("x") is not None


def test_no_changed_bit_is_read_or_breaks_the_reading(records: SavedRecords) -> None:
    """Some say that the archive is encrypted, or of a version that nobody knows."""
    written = {"a": np.arange(8.0)}
    records.write("x", written)
    path = records.folder / "x.npz"
    whole = path.read_bytes()
    for bit in range(0, len(whole) * 8, 3):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        read = records.read("x")
        assert read is None or np.array_equal(read.get("a", np.zeros(0)), written["a"])
