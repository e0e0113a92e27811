"""Damaged files that a user brings along, and saved progress, through the functions that read them.

Formats of our own carry digests, so that every change is noticed. Formats of others (ONNX,
TensorRT's calibration cache, the published sensitivity text) have none: of ONNX files only cuts are
tried here, of the others nothing.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from faults.mutations import Mutation, mutations
from faults.store_artifacts import PROGRESS, made_in_a_process
from faults.store_processes import scratch
from faults.tally import Tally

from quantpipe.errors import ArtifactError

_EACH = 60
_RECORDS = 40

Read = Callable[[Path], Any]


def run(seed: int, share: float) -> Tally:
    """Every kind of file through its reader, or a share of the mutations."""
    tally = Tally(campaign="readers", rows=(8,), seed=seed)
    chance = random.Random(seed)
    start = time.monotonic()
    with scratch() as folder:
        made_in_a_process(folder)
        for name, read in _readers().items():
            _try_file(folder / name, read, chance, max(7, round(share * _EACH)), tally)
        number = max(7, round(share * _RECORDS))
        for name, read in _records().items():
            _try_record(folder / PROGRESS / name, read, chance, number, tally)
    tally.seconds = time.monotonic() - start
    return tally


def _readers() -> dict[str, Read]:
    from quantpipe.detector.checkpoint_file import load_checkpoint
    from quantpipe.engines.engine_file import read_engine_file
    from quantpipe.engines.openvino.spec import SPEC
    from quantpipe.export.onnx_graph import read_graph
    from quantpipe.quantization.precision_plan import load_plan
    from quantpipe.quantization.scale_cache import load_scales
    from quantpipe.quantization.sensitivity.table import load_table

    return {
        "checkpoint.safetensors": load_checkpoint,
        "scales.json": load_scales,
        "plan.json": load_plan,
        "sensitivity.json": load_table,
        "openvino.engine": partial(read_engine_file, spec=SPEC),
        "model.onnx": read_graph,
    }


def _try_file(path: Path, read: Read, chance: random.Random, number: int, tally: Tally) -> None:
    content = path.read_bytes()
    whole = _shown(read(path))
    for mutation in _of_format(path.name, content, chance, number):
        _put(path, mutation)
        tally.record(f"{path.name} {mutation.what}", _refused(path, read, whole, tally))
        path.write_bytes(content)


def _of_format(name: str, content: bytes, chance: random.Random, number: int) -> Iterator[Mutation]:
    if name != "model.onnx":
        yield from mutations(content, chance, number)
        return
    for _ in range(number):
        length = chance.randrange(len(content) - 1)
        yield Mutation(what=f"cut to {length} bytes", content=content[:length])


def _put(path: Path, mutation: Mutation) -> None:
    if mutation.content is None:
        path.unlink()
    else:
        path.write_bytes(mutation.content)


def _refused(path: Path, read: Read, whole: str, tally: Tally) -> str | None:
    """An error with its exit code, or the very same content (white space was changed)."""
    try:
        found = _shown(read(path))
    except ArtifactError as error:
        return None if path.name in str(error) else f"does not name the file: {error}"
    except Exception as error:  # noqa: BLE001 - whatever else comes is what must be found
        return f"{type(error).__name__}: {error}"
    if found == whole:
        return None
    tally.wrong_results += 1
    return "silently accepted"


def _shown(value: Any) -> str:
    """All of a value as text, tensors by their digest."""
    from quantpipe.detector.checkpoint import Checkpoint

    if isinstance(value, Checkpoint):
        return f"{value.weights_digest} {value.class_names} {value.settings} {value.provenance}"
    return repr(value)


def _records() -> dict[str, Read]:
    """Saved progress: a damaged record is as good as none."""
    from quantpipe.quantization.records import SavedRecords
    from quantpipe.training.saved_state import newest_state

    def records(folder: Path) -> Any:
        found = SavedRecords(folder=folder, identity="i" * 64).read("backbone.stem")
        return None if found is None else {key: value.tolist() for key, value in found.items()}

    def state(folder: Path) -> Any:
        found = newest_state(folder, lambda _: None)
        return None if found is None else (found[0], {k: t.tolist() for k, t in found[1].items()})

    return {"codes": records, "records": records, "training": state}


def _try_record(folder: Path, read: Read, chance: random.Random, number: int, tally: Tally) -> None:
    """The newest record is damaged: it is not used, an older one or none is."""
    newest = max(path for path in folder.iterdir() if path.is_file())
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept)
    whole = read(folder)
    for mutation in mutations(newest.read_bytes(), chance, number):
        _put(newest, mutation)
        found = read(folder)
        sound = [None, whole]
        newest.unlink(missing_ok=True)
        sound.append(read(folder))
        if found not in sound:
            tally.wrong_results += 1
        problem = None if found in sound else "a damaged record was used"
        tally.record(f"progress {newest.name[:20]} {mutation.what}", problem)
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
    shutil.rmtree(kept)
