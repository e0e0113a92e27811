"""How a training of this family begins, by the form of its 3x3 blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from quantpipe.detector.families.implementation import Search, Start
from quantpipe.detector.families.yolov6.architecture import Architecture
from quantpipe.detector.families.yolov6.checkpoint import Description
from quantpipe.detector.families.yolov6.family import Yolov6Settings, architecture
from quantpipe.detector.families.yolov6.network import build_detector
from quantpipe.detector.families.yolov6.rep_optimizer import (
    Scales,
    extract_scales,
    gradient_masks,
    initialize_from_scales,
    load_scales,
    released_scales,
    save_scales,
)
from quantpipe.detector.released.archive import is_archive


def start(form: str, model: Yolov6Settings, num_classes: int, seed: int, search: Search) -> Start:
    """Returns a network in one of the forms that are trained: ``repopt`` or ``repvgg``.

    Raises:
        ArtifactError: The file of scales is damaged, or of another network.
    """
    return _STARTS[form](architecture(model, num_classes=num_classes), seed, search)


def _plain_kernels(shape: Architecture, seed: int, search: Search) -> Start:
    """One 3x3 kernel a block; the branches live on in its first value and its gradient."""
    scales = _scales(shape, seed, search)
    save_scales(search.result, scales)
    detector = build_detector(shape, "repopt", seed=seed)
    initialize_from_scales(detector, scales, seed=seed)
    return Start(
        network=detector,
        settings=Description(shape, "repopt").settings(),
        masks=gradient_masks(detector, scales),
    )


def _branches(shape: Architecture, seed: int, search: Search) -> Start:  # noqa: ARG001
    """Three branches a block, merged only for deployment: nothing to search."""
    return Start(
        network=build_detector(shape, "repvgg", seed=seed),
        settings=Description(shape, "repvgg").settings(),
        masks=None,
    )


_STARTS: Mapping[str, Callable[[Architecture, int, Search], Start]] = {
    "repopt": _plain_kernels,
    "repvgg": _branches,
}


def _scales(shape: Architecture, seed: int, search: Search) -> Scales:
    """The scales of the file that is given, or those of a search."""
    if search.file is not None:
        read = released_scales if is_archive(search.file) else load_scales
        return read(search.file)
    detector = build_detector(shape, "linear_add", seed=seed)
    detector.load_state_dict(search.train(detector))
    return extract_scales(detector)
