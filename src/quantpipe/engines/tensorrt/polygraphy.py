"""Telling a TensorRT builder through Polygraphy, NVIDIA's layer above its Python API.

Polygraphy follows which calls each version has. The network is parsed without it, because it only
prints what a parser objects to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import Any

import polygraphy
from polygraphy.backend.trt import CreateConfig, Profile, engine_bytes_from_network
from polygraphy.exception import PolygraphyException
from polygraphy.logger import G_LOGGER

from quantpipe.engines.tensorrt.builder_options import BuilderOptions
from quantpipe.errors import MachineError

# Older ones ask TensorRT 11 for what it has no more.
_OLDEST = (0, 53, 6)
_INSTEAD = "pip install -U 'polygraphy>=0.53.6'"


def builder_config(trt: Any, builder: Any, network: Any, options: BuilderOptions) -> Any:
    """Returns an ``IBuilderConfig``.

    Raises:
        MachineError: Polygraphy is too old, or refuses the TensorRT that is here.
    """
    number = tuple(int(part) for part in re.findall(r"\d+", polygraphy.__version__)[:3])
    if number < _OLDEST:
        raise MachineError(f"Polygraphy {polygraphy.__version__} is too old", hint=_INSTEAD)
    profiles = [Profile().add(options.input_name, *(shape,) * 3) for shape in options.shapes]
    with _told(), TemporaryFile() as timings:  # Polygraphy asks for a file with a mode
        timings.write(options.timings)
        create = CreateConfig(
            tf32=False,  # float32 means float32: TensorFloat-32 keeps ten bits of it
            fp16="FP16" in options.flags,
            int8="INT8" in options.flags,
            calibrator=options.calibrator,
            profiles=profiles,
            memory_pool_limits={trt.MemoryPoolType.WORKSPACE: options.workspace},
            # Or the inspector would not tell the precision of layers.
            profiling_verbosity=trt.ProfilingVerbosity.DETAILED,
            builder_optimization_level=options.optimization_level,
            load_timing_cache=timings,
        )
        return create(builder, network)


def serialized_network(builder: Any, network: Any, config: Any) -> Any:
    """Returns the plan as a buffer.

    Raises:
        MachineError: TensorRT could not build it.
    """
    with _told():
        return engine_bytes_from_network((builder, network), config=config)


@contextmanager
def _told() -> Iterator[None]:
    """Keeps Polygraphy's log to errors, and gives its exceptions a line that says what to do."""
    with G_LOGGER.verbosity(G_LOGGER.ERROR):
        try:
            yield
        except PolygraphyException as error:
            raise MachineError(
                f"Polygraphy: {str(error).strip().splitlines()[0]}",
                hint="its log is above; more workspace_mib or smaller batch_sizes may help",
            ) from error
