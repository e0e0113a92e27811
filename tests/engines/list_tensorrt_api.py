"""Lists what NVIDIA's own bindings offer, which the stand-ins beside this file are held to.

    pip download --no-deps tensorrt_cu13_bindings==11.4.0.106 tensorrt_cu12_bindings==10.16.1.11 ...
    python list_tensorrt_api.py *.whl > tensorrt_api.json

The bindings are imported over libraries that hold nothing (``gcc`` makes them), which is enough to
see the names of classes, of their members and of enumerations; no GPU is needed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

CLASSES = (
    "Builder", "EngineInspector", "IBuilderConfig", "ICudaEngine", "IExecutionContext",
    "IInt8EntropyCalibrator2", "IInt8MinMaxCalibrator", "ILayer", "INetworkDefinition",
    "IOptimizationProfile", "IProfiler", "ITensor", "ITimingCache", "Logger", "OnnxParser",
    "Runtime",
)  # fmt: skip
ENUMS = (
    "BuilderFlag", "DataType", "DeviceType", "EngineCapability", "LayerInformationFormat",
    "LayerType", "MemoryPoolType", "NetworkDefinitionCreationFlag", "PreviewFeature",
    "ProfilingVerbosity", "QuantizationFlag", "TacticSource", "TensorIOMode",
)  # fmt: skip
LIBRARIES = ("libnvinfer", "libnvonnxparser", "libnvparsers", "libnvinfer_plugin")
ENTRY_POINTS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getPluginRegistry",
    "getBuilderPluginRegistry", "getNvOnnxParserVersion", "initLibNvInferPlugins",
    "_ZN11nvuffparser15createUffParserEv", "_ZN14nvcaffeparser117createCaffeParserEv",
    "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",
    "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
)  # fmt: skip


def main() -> None:
    """Prints the table of all wheels that are named."""
    tables = [_read(Path(name)) for name in sys.argv[1:]]
    tables.sort(key=lambda table: [int(part) for part in table["version"].split(".")])
    text = json.dumps({"versions": {t.pop("version"): t for t in tables}}, indent=1, sort_keys=True)
    print(re.sub(r'\[\s+((?:"\w+",?\s*)+)\]', _one_line, text))  # noqa: T201


def _one_line(found: re.Match[str]) -> str:
    return f"[{' '.join(found[1].split())}]"


def _read(wheel: Path) -> dict[str, Any]:
    major = re.search(r"-(\d+)\.", wheel.name)
    assert major is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        zipfile.ZipFile(wheel).extractall(folder)
        source = folder / "empty.c"
        source.write_text("".join(f"void* {n}(void){{return 0;}}\n" for n in ENTRY_POINTS))
        for library in LIBRARIES:
            target = f"{library}.so.{major[1]}"
            options = ["-shared", "-fPIC", f"-Wl,-soname,{target}", "-o", str(folder / target)]
            subprocess.run(["gcc", *options, str(source)], check=True)
        result = subprocess.run(
            [sys.executable, __file__],
            env={**os.environ, "LD_LIBRARY_PATH": name, "PYTHONPATH": name, "BINDINGS": "1"},
            check=True,
            capture_output=True,
        )
        table: dict[str, Any] = json.loads(result.stdout)
        return table


def _list() -> None:
    """Runs in a process of its own: two versions of the bindings do not go together."""
    import tensorrt_bindings as trt  # type: ignore[import-not-found]

    classes = {}
    for name in CLASSES:
        kind = getattr(trt, name, None)
        if kind is not None:
            members = [member for member in dir(kind) if not member.startswith("_")]
            settable = [m for m in members if getattr(getattr(kind, m), "fset", None)]
            classes[name] = {"members": members, "settable": settable}
    enums = {
        name: {member: int(value) for member, value in getattr(trt, name).__members__.items()}
        for name in ENUMS
        if hasattr(trt, name)
    }
    top = [name for name in dir(trt) if not name.startswith("_")]
    table = {"version": trt.__version__, "classes": classes, "enums": enums, "top": top}
    print(json.dumps(table))  # noqa: T201


if __name__ == "__main__":
    _list() if os.environ.get("BINDINGS") else main()
