from pathlib import Path

import pytest
import torch

from quantpipe.training.saved_state import Counters, newest_path, newest_state, write_state


def state(step: int) -> tuple[Counters, dict[str, torch.Tensor]]:
    counters = Counters(
        step=step,
        history=[{"loss": 0.1 + 0.2}],
        sums={"loss": 1 / 3},
        best_score=0.25,
        best_epoch=1,
    )
    tensors = {
        "network.w": torch.full((2, 3), float(step)),
        "network.n": torch.tensor(step),
        "kernel": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
    }
    return counters, tensors


def test_state_comes_back_exactly(tmp_path: Path) -> None:
    counters, tensors = state(7)
    write_state(tmp_path, counters, tensors)
    found = newest_state(tmp_path, pytest.fail)
    assert found is not None
    assert found[0] == counters
    assert set(found[1]) == set(tensors)
    assert all(torch.equal(found[1][name], tensor) for name, tensor in tensors.items())


def test_two_newest_are_kept(tmp_path: Path) -> None:
    paths = [write_state(tmp_path, *state(step)) for step in (1, 2, 10)]
    assert sorted(tmp_path.iterdir()) == sorted(paths[1:])
    assert newest_path(tmp_path) == paths[2]


def test_no_state(tmp_path: Path) -> None:
    assert newest_state(tmp_path / "none", pytest.fail) is None
    assert newest_path(tmp_path / "none") is None


@pytest.mark.parametrize("damage", ["truncate", "empty", "flip header", "flip tensor"])
def test_a_damaged_state_is_noted_and_the_one_before_used(tmp_path: Path, damage: str) -> None:
    write_state(tmp_path, *state(1))
    path = write_state(tmp_path, *state(2))
    content = bytearray(path.read_bytes())
    match damage:
        case "truncate":
            content = content[:-1]
        case "empty":
            content = bytearray()
        case "flip header":
            content[20] ^= 1
        case "flip tensor":
            content[-1] ^= 1
    path.write_bytes(content)
    notes: list[str] = []
    found = newest_state(tmp_path, notes.append)
    assert found is not None
    assert found[0].step == 1
    assert len(notes) == 1
    assert path.name in notes[0]
    assert not path.exists()


def test_what_a_killed_write_left_is_removed(tmp_path: Path) -> None:
    leftover = tmp_path / ".step-000000001-abc.safetensors.123.tmp"
    leftover.write_bytes(b"half")
    assert newest_state(tmp_path, pytest.fail) is None
    assert not leftover.exists()
