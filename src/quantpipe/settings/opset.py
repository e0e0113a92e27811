"""Which version of ONNX a graph is written in, by what has to read it."""

from __future__ import annotations

from typing import Annotated, Literal

from quantpipe.engines.tensorrt.version import installed_tensorrt
from quantpipe.errors import ConfigurationError
from quantpipe.schema import Between

Opset = Literal["auto"] | Annotated[int, Between(17, 23)]
_OPSET = 20


def resolved_opset(opset: Opset, target: str, *, path: str = "opset") -> int:
    """Returns the opset to write for an engine: as given, or what the library here is best with.

    ``path`` is the key that an error names.

    Raises:
        ConfigurationError: The TensorRT that is installed here does not parse it.
    """
    version = installed_tensorrt() if target == "tensorrt" else None
    if opset == "auto":
        return _OPSET if version is None else version.opset
    if version is not None and version.newest_opset is not None and opset > version.newest_opset:
        raise ConfigurationError(
            f"{version} parses ONNX up to opset {version.newest_opset}, not {opset}",
            path=path,
            hint="set it to auto",
        )
    return opset
