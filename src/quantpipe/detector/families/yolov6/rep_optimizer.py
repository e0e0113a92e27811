"""RepOptimizer: prior knowledge of a multi-branch block in the gradient, not in the structure.

Ding et al., "Re-parameterizing Your Optimizers rather than Architectures", arXiv 2205.15242. The
scales of a trained linear-add network (hyper-search) choose the first kernels and the gradient
masks of a plain 3x3 network; training that with masked SGD is then the same as training the
branches with constant scales (section 3 and its proof of equivalence).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from quantpipe.detector.families.yolov6.folding import linear_add_weight
from quantpipe.detector.families.yolov6.layers import LinearAddBlock, RepOptBlock
from quantpipe.detector.families.yolov6.network import Detector, build_detector
from quantpipe.detector.released.tensors import read_state
from quantpipe.errors import ArtifactError
from quantpipe.files import write_atomic
from quantpipe.given_files import read_bytes


@dataclass(frozen=True, kw_only=True)
class BlockScales:
    """The trained scales of one 3x3 block, each (C_out,)."""

    kernel_3x3: Tensor
    kernel_1x1: Tensor
    identity: Tensor | None


Scales = Mapping[str, BlockScales]
"""The scales of every 3x3 block by its module path."""


def extract_scales(detector: Detector) -> Scales:
    """Copies the scales of a linear-add detector, in module order."""
    return {
        name: BlockScales(
            kernel_3x3=block.scale_conv.weight.detach().clone(),
            kernel_1x1=block.scale_1x1.weight.detach().clone(),
            identity=None
            if block.scale_identity is None
            else block.scale_identity.weight.detach().clone(),
        )
        for name, block in detector.named_modules()
        if isinstance(block, LinearAddBlock)
    }


@torch.no_grad()
def initialize_from_scales(detector: Detector, scales: Scales, *, seed: int) -> None:
    """Sets each 3x3 kernel to s3 W3 + pad(s1 W1) + diag(sid), W3 and W1 fresh from ``seed``.

    The kernel is what the linear-add block with these scales and first weights computes ("rule of
    initialization"). Other parameters stay as they are.

    Raises:
        ArtifactError: The scales are of another network.
    """
    search = build_detector(detector.architecture, "linear_add", seed=seed)
    for name, block, scale in _matched_blocks(detector, scales):
        branches = search.get_submodule(name)
        assert isinstance(branches, LinearAddBlock)
        branches.scale_conv.weight.copy_(scale.kernel_3x3)
        branches.scale_1x1.weight.copy_(scale.kernel_1x1)
        if branches.scale_identity is not None and scale.identity is not None:
            branches.scale_identity.weight.copy_(scale.identity)
        block.conv.weight.copy_(linear_add_weight(branches))


@torch.no_grad()
def gradient_masks(detector: Detector, scales: Scales) -> dict[str, Tensor]:
    """Returns what multiplies the gradient of each 3x3 kernel, by parameter name.

    s3^2 everywhere, plus s1^2 on the center tap, plus 1 on the diagonal of the center tap where the
    block had an identity branch ("rule of iteration").

    Raises:
        ArtifactError: The scales are of another network.
    """
    masks = {}
    for name, block, scale in _matched_blocks(detector, scales):
        kernel = block.conv.weight
        mask = torch.ones_like(kernel) * scale.kernel_3x3.to(kernel).square().view(-1, 1, 1, 1)
        mask[:, :, 1, 1] += scale.kernel_1x1.to(kernel).square().view(-1, 1)
        if scale.identity is not None:
            mask[:, :, 1, 1].diagonal().add_(1)
        masks[f"{name}.conv.weight"] = mask
    return masks


def save_scales(path: Path, scales: Scales) -> None:
    """Writes scales as safetensors, atomically."""
    tensors = {
        f"{block}.{part}": tensor.cpu().contiguous()
        for block, scale in scales.items()
        for part, tensor in vars(scale).items()
        if tensor is not None
    }
    write_atomic(path, save(tensors))


def load_scales(path: Path) -> Scales:
    """Reads what :func:`save_scales` wrote, blocks sorted by name.

    Raises:
        ArtifactError: The file is not whole, not of scales, or holds a NaN or an infinity.
    """
    content = read_bytes(path, ArtifactError)
    try:
        tensors = load(content)
    except SafetensorError as error:
        _refuse(path, f"not readable as scales ({error})")
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in sorted(tensors.items()):
        if tensor.ndim != 1 or not bool(torch.isfinite(tensor).all()):
            _refuse(path, f"'{name}' is not a vector of finite numbers")
        block, _, part = name.rpartition(".")
        parts.setdefault(block, {})[part] = tensor
    return {block: _block_scales(path, block, found) for block, found in parts.items()}


_RELEASED_PARTS = {
    "scale_conv": "kernel_3x3",
    "scale_1x1": "kernel_1x1",
    "scale_identity": "identity",
}


def released_scales(path: Path) -> Scales:
    """Reads the scales out of a public hyper-search checkpoint, a pickled linear-add network.

    Raises:
        ArtifactError: The file is damaged or hostile, holds no scales, or holds a NaN.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_state(path).items():
        block, _, rest = name.rpartition(".")
        block, _, part = block.rpartition(".")
        if rest != "weight" or part not in _RELEASED_PARTS:
            continue
        if not bool(torch.isfinite(tensor).all()):
            _refuse(path, f"'{name}' holds a NaN or an infinity")
        parts.setdefault(block, {})[_RELEASED_PARTS[part]] = tensor.reshape(-1)
    if not parts:
        raise ArtifactError(
            "holds no scales", path=path, hint="give the checkpoint of a hyper-search"
        )
    return {block: _block_scales(path, block, found) for block, found in parts.items()}


def _block_scales(path: Path, block: str, parts: dict[str, Tensor]) -> BlockScales:
    required, known = {"kernel_3x3", "kernel_1x1"}, {"kernel_3x3", "kernel_1x1", "identity"}
    if not required <= set(parts) <= known:
        _refuse(path, f"'{block}' has {', '.join(parts)} where kernel_3x3 and kernel_1x1 belong")
    return BlockScales(
        kernel_3x3=parts["kernel_3x3"],
        kernel_1x1=parts["kernel_1x1"],
        identity=parts.get("identity"),
    )


def _refuse(path: Path, cause: str) -> NoReturn:
    raise ArtifactError(cause, path=path, hint="search the scales again")


def _matched_blocks(
    detector: Detector, scales: Scales
) -> Iterator[tuple[str, RepOptBlock, BlockScales]]:
    """Yields each 3x3 block of a repopt detector with its scales, all checked first."""
    modules = dict(detector.named_modules())
    blocks = {name: m for name, m in modules.items() if isinstance(m, RepOptBlock)}
    if set(blocks) != set(scales):
        raise ArtifactError(
            f"the scales are of {len(scales)} blocks and the model has {len(blocks)}, "
            f"of which {len(set(blocks) & set(scales))} have the same name",
            hint="search scales with this model",
        )
    for name, block in blocks.items():
        _require_fit(name, block, scales[name])
    for name, block in blocks.items():
        yield name, block, scales[name]


def _require_fit(name: str, block: RepOptBlock, scale: BlockScales) -> None:
    conv = block.conv
    has_identity = conv.in_channels == conv.out_channels and conv.stride == (1, 1)
    lengths = {len(t) for t in vars(scale).values() if t is not None}
    if lengths != {conv.out_channels} or has_identity != (scale.identity is not None):
        raise ArtifactError(
            f"the scales of '{name}' do not fit its kernel {tuple(conv.weight.shape)}",
            hint="search scales with this model",
        )
