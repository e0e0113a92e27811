from __future__ import annotations

from importlib import metadata

import pytest

from quantpipe.versions import installed_versions


def test_a_library_is_found_under_any_of_its_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(distribution: str) -> str:
        if distribution in ("torch", "onnxruntime-gpu"):
            return f"1 of {distribution}"
        raise metadata.PackageNotFoundError(distribution)

    monkeypatch.setattr(metadata, "version", version)
    assert installed_versions(["torch", "onnxruntime", "openvino"]) == {
        "torch": "1 of torch",
        "onnxruntime": "1 of onnxruntime-gpu",
    }
