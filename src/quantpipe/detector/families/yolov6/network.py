"""The detector: backbone, neck and head, and its deployed form."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from quantpipe.detector.families.implementation import DetectorNetwork, RawPrediction
from quantpipe.detector.families.yolov6.anchors import anchor_points
from quantpipe.detector.families.yolov6.architecture import STRIDES, Architecture, BlockForm
from quantpipe.detector.families.yolov6.backbone import Backbone
from quantpipe.detector.families.yolov6.folding import folded_tensors
from quantpipe.detector.families.yolov6.head import Head
from quantpipe.detector.families.yolov6.initialization import initialize
from quantpipe.detector.families.yolov6.layers import ConvBn
from quantpipe.detector.families.yolov6.neck import Neck

# oneDNN's backward pass of a strided 1x1 convolution writes past its workspace for channels-last
# float32 images of fewer channels than this (uxlfoundation/oneDNN issue 6035): the heap is damaged.
_SAFE_CHANNELS = 16

__all__ = [
    "BlockForm",
    "Detector",
    "build_detector",
    "detector_from_tensors",
    "fold_batch_norm",
    "uninitialized_detector",
]


class Detector(DetectorNetwork):
    """A YOLOv6-class detector. Image height and width are multiples of 32."""

    def __init__(self, architecture: Architecture, form: BlockForm):
        super().__init__()
        self.architecture = architecture
        self.form: BlockForm = form
        _, p3, _, p4, _, p5 = architecture.neck_widths
        self.backbone = Backbone(architecture, form)
        self.neck = Neck(architecture, form)
        self.detect = Head((p3, p4, p5), architecture.num_classes, folded=form == "deploy")

    def forward(self, images: Tensor) -> Tensor:
        """Detects: the graph that is deployed.

        Args:
            images: (B, 3, H, W) RGB, 0 to 1.

        Returns:
            (B, A, 5 + C), float32: center x, center y, width, height in pixels, the constant 1,
            and the score of every class from 0 to 1.
        """
        features, logits, distances = self._run(images)
        return _assemble(logits, distances, features)

    def predict(self, images: Tensor) -> RawPrediction:
        """The same modules, nothing decoded: distances in cells, and P3, P4 and P5 as features."""
        features, logits, distances = self._run(images)
        return RawPrediction(logits.transpose(1, 2), distances.transpose(1, 2), features)

    def may_use_channels_last(self, device: torch.device) -> bool:
        """Whether it can be trained in this memory order.

        Only the 1x1 branches of RepVGG blocks are strided; linear-add blocks merge theirs into the
        3x3 kernel.
        """
        convs = [module.conv for module in self.modules() if isinstance(module, ConvBn)]
        return device.type != "cpu" or not any(
            conv.kernel_size == (1, 1)
            and conv.stride != (1, 1)
            and conv.in_channels < _SAFE_CHANNELS
            for conv in convs
        )

    def _run(self, images: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
        height, width = images.shape[-2:]
        assert height % STRIDES[-1] == 0, f"image height {height} is not a multiple of 32"
        assert width % STRIDES[-1] == 0, f"image width {width} is not a multiple of 32"
        features = self.neck(*self.backbone(images))
        logits, distances = self.detect(features)
        return features, logits, distances


def _assemble(logits: Tensor, distances: Tensor, features: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Decodes in the layout (B, ..., A) that convolutions leave: one transpose, at the end."""
    sizes = [(feature.shape[-2], feature.shape[-1]) for feature in features]
    points, strides = anchor_points(sizes, STRIDES, logits.device)
    # Under autocast bfloat16 could not tell neighboring pixels apart.
    left_top, right_bottom = (distances.float() * strides.T).chunk(2, dim=1)
    center = points.T + 0.5 * (right_bottom - left_top)
    scores = logits.float().sigmoid()
    ones = torch.ones_like(scores[:, :1])
    rows = torch.cat([center, left_top + right_bottom, ones, scores], dim=1)
    return rows.transpose(1, 2)


def uninitialized_detector(architecture: Architecture, form: BlockForm) -> Detector:
    """Returns a detector on the meta device: names, shapes and types, but no memory."""
    with torch.device("meta"):
        return Detector(architecture, form)


def build_detector(architecture: Architecture, form: BlockForm, *, seed: int) -> Detector:
    """Returns an initialized detector in training mode, the same for the same ``seed``.

    Torch's global random state is neither used nor changed.
    """
    detector = uninitialized_detector(architecture, form).to_empty(device="cpu")
    initialize(detector, detector.detect, seed=seed)
    return detector


def detector_from_tensors(
    architecture: Architecture, form: BlockForm, tensors: dict[str, Tensor]
) -> Detector:
    """Returns a detector in evaluation mode that owns ``tensors``, a whole state dict."""
    detector = uninitialized_detector(architecture, form)
    detector.load_state_dict(tensors, strict=True, assign=True)
    return detector.eval()


def fold_batch_norm(detector: Detector) -> Detector:
    """Returns the deployed form of a detector of any form, in evaluation mode.

    Branches are merged and running statistics folded: every convolution has a bias and no
    BatchNorm is left. Nothing is shared with ``detector``, which stays as it is.
    """
    if detector.form == "deploy":
        return copy.deepcopy(detector).eval()
    return detector_from_tensors(detector.architecture, "deploy", folded_tensors(detector))
