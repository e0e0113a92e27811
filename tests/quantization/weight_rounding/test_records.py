from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantpipe.quantization.weight_rounding.records import CodeRecords


@pytest.fixture
def records(tmp_path: Path) -> CodeRecords:
    return CodeRecords(folder=tmp_path / "codes", identity="one")


@pytest.fixture
def codes(records: CodeRecords) -> Tensor:
    codes = torch.arange(-12, 12, dtype=torch.int8).view(2, 3, 4, 1)
    records.write("neck.up", codes)
    return codes


def test_integers_come_back(records: CodeRecords, codes: Tensor) -> None:
    found = records.read("neck.up", torch.zeros(2, 3, 4, 1))
    assert found is not None
    assert found.equal(codes)
    assert records.read("neck.down", codes) is None


def test_records_of_another_identity_shape_or_name_are_none(
    records: CodeRecords, codes: Tensor
) -> None:
    assert dataclasses.replace(records, identity="two").read("neck.up", codes) is None
    assert records.read("neck.up", codes.flatten()) is None
    (records.folder / "neck.down.codes").write_bytes(
        (records.folder / "neck.up.codes").read_bytes()
    )
    assert records.read("neck.down", codes) is None


@pytest.mark.parametrize("cut", [0, 1, 20, -1])
def test_damaged_records_are_none(records: CodeRecords, codes: Tensor, cut: int) -> None:
    path = records.folder / "neck.up.codes"
    path.write_bytes(path.read_bytes()[:cut])
    assert records.read("neck.up", codes) is None


def test_a_flipped_bit_is_noticed(records: CodeRecords, codes: Tensor) -> None:
    path = records.folder / "neck.up.codes"
    content = bytearray(path.read_bytes())
    place = bytes(content).index(codes.numpy().tobytes())
    content[place + 5] ^= 1
    path.write_bytes(content)
    assert records.read("neck.up", codes) is None
