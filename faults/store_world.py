"""A store and a run directory with toy stages, and what must be true of them after any fault."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from faults.text_steps import TextConfig, append, stage, step

from quantpipe.core.attribution import attribute_errors
from quantpipe.core.entry import Built, key_of
from quantpipe.core.pipeline import Pipeline, Step
from quantpipe.core.run_cache import RunCache
from quantpipe.core.run_directory import RunDirectory
from quantpipe.core.runner import Runner, StepRecord, run_pipeline
from quantpipe.core.stage import Context, Inputs, Metrics, Outputs
from quantpipe.files import remove_leftovers, sha256_bytes, sha256_file, write_atomic
from quantpipe.progress import Silent

TRAINING_STEPS = 6
SAVE_EVERY = 2
_MANIFEST = "manifest.json"
_STATE = re.compile(r"step-(\d+)-([0-9a-f]{64})\.state")


class Told(Silent):
    """Keeps what it is told, and passes it on to whoever marks a trace with it."""

    def __init__(self, mark: Callable[[str], None] = lambda text: None):
        self.lines: list[str] = []
        self.mark = mark

    def note(self, text: str) -> None:
        self.lines.append(text)
        self.mark(text)


@dataclass
class World:
    """A folder that faults reach (``root``) and a log beside it that they do not.

    A new one is made in each process, as each process would.
    """

    folder: Path
    run_name: str = "run"
    told: Told = field(default_factory=lambda: Told())

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def cache_root(self) -> Path:
        return self.root / "cache"

    @property
    def run_root(self) -> Path:
        return self.root / self.run_name

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def cache(self) -> RunCache:
        return RunCache(self.cache_root, warn=self.told.note)

    def directory(self) -> RunDirectory:
        return RunDirectory(self.run_root, warn=self.told.note)

    def run(self) -> tuple[StepRecord, ...]:
        """What the command does with a pipeline, without its tables."""
        directory, pipeline = self.directory(), four_steps(self.log)
        with attribute_errors(None), directory.held():
            runner = Runner(
                cache=self.cache(),
                run_directory=directory,
                progress=self.told,
                seed=7,
                device="cpu",
            )
            records = run_pipeline(pipeline, runner)
            self.told.mark("pipeline")
            directory.remove_unclaimed()
            directory.write_manifest(pipeline.name, {r.step: r.as_json() for r in records})
            directory.write_status("done", None, exit_code=0)
        return records

    def publish(self, name: str = "one") -> Path:
        """One entry with several files, in folders too."""
        identity = {"stage": name}
        with attribute_errors(None):
            cache = self.cache()
            cache.clear_staging()  # as each run does
            entry, _ = cache.get_or_build(key_of(identity), identity, partial(self.write, name))
        return entry.folder

    def write(self, name: str, folder: Path) -> Built:
        """Writes the files of an entry."""
        self.said(name)
        for file, content in entry_files(name).items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return Built(metrics={"score": 0.5}, seconds=1.25)

    def said(self, what: str) -> None:
        """Notes an execution where no fault reaches."""
        with self.log.open("a") as log:
            log.write(f"{what}\n")
        self.told.mark(what)

    def executions(self) -> list[str]:
        """What was executed, in order."""
        return self.log.read_text().split() if self.log.exists() else []


def entry_files(name: str) -> dict[str, bytes]:
    """The files of an entry, empty, small, nested and longer than a buffer."""
    return {
        "weights.bin": bytes(range(256)) * 80 + name.encode(),
        "scales.json": f'{{"of": "{name}"}}'.encode(),
        "empty": b"",
        "images/deep/a.bin": name.encode() * 40,
    }


def train(config: TextConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Six steps, saved every two as a training saves: digest in the name, the newest two kept."""
    folder = context.progress_folder
    remove_leftovers(folder)
    done, text = newest(folder)
    while done < TRAINING_STEPS:
        done += 1
        text += f"{done};"
        with config.log.open("a") as log:
            log.write(f"{context.step}:{done}\n")
        if done % SAVE_EVERY == 0:
            save(folder, done, text)
    outputs["text"].write_text(text)
    outputs["extra"].write_text(config.text)
    return {"steps": done}


def save(folder: Path, done: int, text: str) -> None:
    """Writes a state and removes all but the newest two."""
    content = text.encode()
    write_atomic(folder / f"step-{done:04d}-{sha256_bytes(content)}.state", content)
    for older in states(folder)[2:]:
        older.unlink()


def states(folder: Path) -> list[Path]:
    """The saved states that are what was written, the newest first."""
    found = sorted(folder.glob("step-*.state"), reverse=True)
    return [path for path in found if _is_whole(path)]


def _is_whole(path: Path) -> bool:
    name = _STATE.fullmatch(path.name)
    return name is not None and name[2] == sha256_file(path)


def newest(folder: Path) -> tuple[int, str]:
    """Steps done and the state after them."""
    for path in states(folder):
        name = _STATE.fullmatch(path.name)
        assert name is not None
        return int(name[1]), path.read_text()
    return 0, ""


def _export(config: TextConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Uses material that steps share."""
    folder = context.materialize({"images": 1}, _draw)
    metrics = append(config, inputs, outputs, context)
    return {**metrics, "images": len(list(folder.iterdir()))}


def _draw(folder: Path) -> None:
    for number in range(2):
        (folder / f"{number}.png").write_bytes(bytes([number]) * 100)


def four_steps(log: Path) -> Pipeline:
    """A training that saves, two steps that read it, and one that reads both and draws images."""
    steps: Iterable[Step] = (
        step("train", log, stage(train, name="train")),
        step("calibrate", log, stage(), {"text": "train.text"}),
        step("rank.by.loss", log, stage(), {"text": "train.text"}),
        step(
            "export",
            log,
            stage(_export, name="export"),
            {"text": "calibrate.text", "more": "rank.by.loss.text"},
        ),
    )
    return Pipeline(name="four", steps=tuple(steps))


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def results(world: World) -> dict[str, str]:
    """Digests of what runs are for: published files and their copies, without times and names."""
    found = {}
    for top in (world.cache_root / "objects", world.run_root):
        for name, digest in contents(top).items():
            last = name.rpartition("/")[2]
            if not last.startswith(".") and last not in (_MANIFEST, "status.json"):
                found[f"{top.name}/{name}"] = digest
    return found


def whole_entries(world: World) -> dict[str, int]:
    """Keys of the entries whose files are what their manifests say, and their bytes.

    Read without the store's own code, which would judge itself and note a use.
    """
    found = {}
    for folder in (world.cache_root / "objects").glob("??/*"):
        there = contents(folder)
        there.pop(_MANIFEST, None)
        try:
            recorded = json.loads((folder / _MANIFEST).read_bytes())["files"]
        except (OSError, ValueError, KeyError):
            continue
        if there == {name: file["sha256"] for name, file in recorded.items()}:
            found[folder.name] = sum(file["size"] for file in recorded.values())
    return found


def leftovers(world: World) -> list[str]:
    """What no run needs any more: staging, temporary files, progress of finished steps."""
    cache = world.cache_root
    found = [*(cache / "staging").glob("*"), *world.root.rglob(".*.tmp")]
    found += [
        path
        for path in (cache / "progress").glob("*")
        if (cache / "objects" / path.name[:2] / path.name).is_dir()
    ]
    return sorted(path.relative_to(world.root).as_posix() for path in found)


def age(folder: Path, seconds: float, now: float) -> None:
    """Makes an entry look unused for so long."""
    os.utime(folder, (now - seconds, now - seconds))
