"""Versions of the libraries that are installed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata

# Some libraries come as one of several distributions.
_ALSO_AS: Mapping[str, tuple[str, ...]] = {"onnxruntime": ("onnxruntime-gpu",)}


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Returns the version of each library; those that are not here are left out."""
    found = {}
    for name in names:
        for distribution in (name, *_ALSO_AS.get(name, ())):
            try:
                found[name] = metadata.version(distribution)
            except metadata.PackageNotFoundError:
                continue
            break
    return found
