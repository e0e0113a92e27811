"""The shape of the code, in numbers: ``python benchmarks/shape.py [--root DIRECTORY] [--rooms]``.

Lines, long functions, long files, imports inside functions, and the references of the default
recipe; with ``--rooms`` also how many files and folders a network enters in each stage of a small
run, which takes a minute. ``--root`` names another checkout to set beside this one.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

LONG_FUNCTION, LONG_FILE = 45, 300
SMALL = (
    "data.num_train=64 data.num_val=16 data.difficulty=0 model.image_size=64 "
    "train_repopt.batch_size=8 train_repopt.epochs=14 train_repopt.search.epochs=3 "
    "train_repopt.schedule.ema_ramp_steps=20 calibrate.num_images=16 sensitivity.num_images=8 "
    "qat_distill.epochs=1 evaluate.num_runs=1 engine.batch_sizes=[1] "
    "export.tolerance.int8_limit=10 evaluate.parity.int8_limit=10"
)


def sources(folder: Path) -> list[Path]:
    """Python files below a folder."""
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lengths(tree: ast.AST) -> list[int]:
    """Lines of every function, from ``def`` to its end."""
    return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions(tree)]


def local_imports(tree: ast.AST) -> int:
    """Imports inside functions."""
    found = {
        (node.lineno, node.col_offset)
        for function in functions(tree)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return len(found)


def num_lines(folder: Path) -> int:
    """Lines of all files below a folder."""
    return sum(len(path.read_text().splitlines()) for path in sources(folder))


def references(root: Path) -> int:
    """Strings by which steps and variants of the default recipe name what another step makes."""
    code = (
        "import json\n"
        "from hydra import compose, initialize_config_dir\n"
        "from omegaconf import OmegaConf\n"
        f"with initialize_config_dir({str(root / 'conf')!r}, version_base='1.3'):\n"
        "    print(json.dumps(OmegaConf.to_container(compose('config'), resolve=True)))\n"
    )
    composed = json.loads(_python(root, "-c", code))
    count = sum(len(row) > 0 and "model" in row for row in composed.get("variants", {}).values())
    for values in composed.values():
        if isinstance(values, dict) and "stage" in values:
            groups = [values, *(values.get("each") or {}).values()]
            count += sum(len(group.get("inputs") or {}) for group in groups)
    return count


_TRACE = """
import sys, threading
from collections import defaultdict
from quantpipe.core import runner
import torch
rooms, inside = defaultdict(set), []
KINDS = {"Checkpoint", "Loaded", "Model", "LoadedModel"}
def holds(frame):
    return any(isinstance(v, torch.nn.Module) or type(v).__name__ in KINDS
               for v in list(frame.f_locals.values()))
def watch(frame, event, argument):
    name = frame.f_globals.get("__name__", "")
    if event == "call" and name.startswith("quantpipe.") and inside and holds(frame):
        rooms[inside[-1]].add(name)
execute = runner._execute
def traced(step, *rest, **named):
    inside.append(step.stage.name); sys.setprofile(watch)
    try:
        return execute(step, *rest, **named)
    finally:
        sys.setprofile(None); inside.pop()
runner._execute = traced
from quantpipe.__main__ import main
try:
    main()
finally:
    print("files (folders) that a network enters:", ", ".join(
        f"{name} {len(found)} ({len({module.rpartition('.')[0] for module in found})})"
        for name, found in rooms.items()))
"""


def rooms(root: Path) -> str:
    """Files and folders in which a function holds a network or checkpoint, by stage."""
    with tempfile.TemporaryDirectory() as folder:
        places = [f"run_dir={folder}/run", f"cache_dir={folder}/cache", "device=cpu"]
        lines = _python(root, "-c", _TRACE, *SMALL.split(), *places).splitlines()
    return next(line for line in lines if line.startswith("files (folders)"))


def _python(root: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=root, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return done.stdout


def main() -> None:
    """Prints one line a number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--rooms", action="store_true")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    package = root / "src" / "quantpipe"
    trees = {path: ast.parse(path.read_text()) for path in sources(package)}
    found = [length for tree in trees.values() for length in lengths(tree)]
    stages = [tree for path, tree in trees.items() if "stages" in path.parts]
    print(
        f"files of src: {len(trees)}, lines {num_lines(package)}; tests {num_lines(root / 'tests')}"
    )
    print(f"functions: {len(found)}, median {statistics.median(found):g} lines")
    print(f"functions over {LONG_FUNCTION} lines: {sum(n > LONG_FUNCTION for n in found)}")
    long_files = [p for p in trees if len(p.read_text().splitlines()) > LONG_FILE]
    names = ", ".join(str(path.relative_to(package)) for path in long_files)
    print(f"files over {LONG_FILE} lines: {len(long_files)} ({names})")
    print(f"imports inside functions: {sum(map(local_imports, trees.values()))}")
    print(f"imports inside functions of the stages: {sum(map(local_imports, stages))}")
    print(f"references of the default recipe: {references(root)}")
    if arguments.rooms:
        print(rooms(root))


if __name__ == "__main__":
    main()
