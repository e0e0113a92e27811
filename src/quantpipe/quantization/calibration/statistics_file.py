"""Calibration statistics as a file: counted once, solved for any method and percentile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from quantpipe.errors import ArtifactError
from quantpipe.quantization.calibration.collect import Statistics
from quantpipe.quantization.calibration.histogram import Histogram

_INDEX = "index"


def save_statistics(path: Path, statistics: Statistics) -> None:
    """Writes every histogram once, operations that share one by its number."""
    distinct = list({id(h): h for h in statistics.histograms.values()}.values())
    numbers = {id(histogram): number for number, histogram in enumerate(distinct)}
    index = {
        "num_images": statistics.num_images,
        "operations": {name: numbers[id(h)] for name, h in statistics.histograms.items()},
        "histograms": [
            {"width": h.width, "amax": h.amax, "image_amax": h.image_amax} for h in distinct
        ],
    }
    arrays: dict[str, NDArray[Any]] = {
        str(number): histogram.counts for number, histogram in enumerate(distinct)
    }
    arrays |= {
        _images(number): histogram.image_matrix()
        for number, histogram in enumerate(distinct)
        if histogram.image_amax
    }
    text = np.frombuffer(json.dumps(index).encode(), dtype=np.uint8)
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **{_INDEX: text}, **arrays)


def load_statistics(path: Path) -> Statistics:
    """Reads what :func:`save_statistics` wrote, with the same sharing.

    Raises:
        ArtifactError: The file is something else.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            index = json.loads(arrays[_INDEX].tobytes())
            histograms = [
                _histogram(arrays, number, **limits)
                for number, limits in enumerate(index["histograms"])
            ]
        shared = {name: histograms[number] for name, number in index["operations"].items()}
        return Statistics(histograms=shared, num_images=index["num_images"])
    except (OSError, BadZipFile, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ArtifactError(
            f"not readable as calibration statistics ({error})", path=path, hint="calibrate again"
        ) from error


def _histogram(
    arrays: Mapping[str, NDArray[Any]],
    number: int,
    *,
    width: float,
    amax: float,
    image_amax: list[float],
) -> Histogram:
    histogram = Histogram()
    histogram.counts, histogram.width, histogram.amax = arrays[str(number)], width, amax
    if image_amax:
        histogram.images, histogram.image_amax = list(arrays[_images(number)]), image_amax
    return histogram


def _images(number: int) -> str:
    return f"{number}-images"
