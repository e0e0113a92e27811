"""The ``data`` group: where images and boxes come from, and what names their content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from quantpipe.core.stage import Context
from quantpipe.errors import ConfigurationError, DataError
from quantpipe.given_files import require_file, require_folder
from quantpipe.identity import identity
from quantpipe.schema import Between

if TYPE_CHECKING:
    from quantpipe.data.checked import Checked
    from quantpipe.data.dataset import DetectionDataset

Split = Literal["train", "val"]
_NOTES = 12  # lines about a data set; there are fewer kinds of faults
BatchSize = Annotated[int, Between(1, 4096)]
BadImages = Annotated[int, Between(0)]


@dataclass(frozen=True, kw_only=True)
class ShapesSettings:
    """A generated set of shapes on cluttered ground; the same for the same seed."""

    format: Literal["shapes"]
    num_train: Annotated[int, Between(1, 1_000_000)]
    num_val: Annotated[int, Between(1, 1_000_000)]
    image_size: Annotated[int, Between(64, 2048)] | tuple[int, int]
    num_classes: Annotated[int, Between(1, 5)]
    difficulty: Annotated[float, Between(0, 1)]
    seed: Annotated[int, Between(0, 2**31 - 1)]

    def __post_init__(self) -> None:
        # It follows the model's, which need be no square.
        if not isinstance(self.image_size, int):
            raise ConfigurationError(
                f"generated images are square, not {list(self.image_size)}",
                path="image_size",
                hint=f"set data.image_size={max(self.image_size)}",
            )


@dataclass(frozen=True, kw_only=True)
class CocoSettings:
    """A COCO data set: a root in a usual layout, or explicit folders and annotation files."""

    format: Literal["coco"]
    root: Path | None
    train_images: Path | None
    train_annotations: Path | None
    val_images: Path | None
    val_annotations: Path | None
    max_bad_images: BadImages
    strict: bool

    def __post_init__(self) -> None:
        explicit = {
            name: getattr(self, name)
            for name in ("train_images", "train_annotations", "val_images", "val_annotations")
        }
        missing = [name for name, value in explicit.items() if value is None]
        if self.root is None and missing:
            hint = "set data.root=FOLDER, or all of " + ", ".join(
                f"data.{name}" for name in explicit
            )
            raise ConfigurationError("no data set is named", path=missing[0], hint=hint)


@dataclass(frozen=True, kw_only=True)
class YoloSettings:
    """A YOLO data set: image folders beside label folders, and optionally a data.yaml."""

    format: Literal["yolo"]
    root: Path
    class_names: tuple[str, ...] | None
    allow_unlabelled: bool
    max_bad_images: BadImages
    strict: bool


DataSettings = ShapesSettings | CocoSettings | YoloSettings


def check_data(settings: DataSettings) -> None:
    """Finds what is missing without reading images.

    Raises:
        DataError: With the path that is no such folder, or no such file.
    """
    if isinstance(settings, ShapesSettings):
        return
    for name, path in vars(settings).items():
        if isinstance(path, Path):
            require = require_file if name.endswith("annotations") else require_folder
            require(path, DataError, f"see data.{name}")
    if isinstance(settings, CocoSettings):
        for split in ("train", "val"):
            _coco_paths(settings, split)


def data_content(settings: DataSettings, splits: tuple[Split, ...], memo: Path) -> dict[str, str]:
    """Digests that name the images and boxes of some splits.

    Generated data needs no digest: its settings name it. Digests of unchanged images are
    remembered in the folder ``memo``.

    Raises:
        DataError: The data set cannot be read.
    """
    if isinstance(settings, ShapesSettings):
        from quantpipe.data.shapes import SHAPES_VERSION

        return {"shapes": str(SHAPES_VERSION)}
    read = {split: _checked(settings, split, memo) for split in splits}
    _require_same_classes([checked.dataset for checked in read.values()])
    return {split: checked.dataset.fingerprint(checked.digests) for split, checked in read.items()}


def _require_same_classes(splits: Sequence[DetectionDataset]) -> None:
    """A label is a place in the list of classes, so every split must have the same list."""
    first = splits[0]
    for other in splits[1:]:
        if (other.class_names, other.category_ids) != (first.class_names, first.category_ids):
            raise DataError(
                f"{other.name} has the classes {', '.join(other.class_names)}, "
                f"{first.name} has {', '.join(first.class_names)}",
                path=other.root,
                hint="give both the same categories, with the same ids",
            )


def open_split(settings: DataSettings, split: Split, context: Context) -> DetectionDataset:
    """Reads one split and says once what was found; generated data is generated on first use."""
    on_disk = _on_disk(settings, context)
    if isinstance(settings, ShapesSettings):
        dataset = _read(on_disk, split)  # what was generated is verified as every result is
    else:
        dataset = _checked(on_disk, split, context.memo).dataset
    if (on_disk, split) not in _told:
        _told.add((on_disk, split))
        _tell(dataset, context)
    return dataset


def _tell(dataset: DetectionDataset, context: Context) -> None:
    """Says what was read, what was mended, and what was left out: of each kind, the first."""
    counts = ", ".join(f"{value} {name}" for name, value in dataset.counts.items() if value)
    context.progress.note(f"{context.step}: {dataset.name}: {counts}".replace("_", " "))
    for line in dataset.notes[:_NOTES]:
        context.progress.note(f"  {line}")


def choose_images(dataset: DetectionDataset, count: int, context: Context) -> tuple[int, ...]:
    """Returns which images a step works on: ``count`` of them, or all and a word that says so."""
    from quantpipe.data.batches import sample

    available = len(dataset.images)
    if count > available:
        context.progress.note(
            f"{context.step}: {count} images were asked for, {dataset.name} has {available}: "
            "all are used"
        )
    return sample(available, count, context.seed)


def _on_disk(settings: DataSettings, context: Context) -> CocoSettings | YoloSettings:
    if not isinstance(settings, ShapesSettings):
        return settings
    from quantpipe.data.shapes import SHAPES_VERSION, generate_shapes

    arguments = {name: value for name, value in vars(settings).items() if name != "format"}
    named_by = {"data": identity(settings), "version": SHAPES_VERSION}
    folder = context.materialize(
        named_by, lambda root: generate_shapes(root, **arguments, progress=context.progress)
    )
    return coco_at(folder)


def coco_at(root: Path) -> CocoSettings:
    """A COCO data set in the usual layout, with nothing forgiven."""
    return CocoSettings(
        format="coco",
        root=root,
        train_images=None,
        train_annotations=None,
        val_images=None,
        val_annotations=None,
        max_bad_images=0,
        strict=True,
    )


_told: set[tuple[CocoSettings | YoloSettings, Split]] = set()


@cache
def _checked(settings: CocoSettings | YoloSettings, split: Split, memo: Path) -> Checked:
    """A split without damaged images; those to validate on are decoded, once, to be sure."""
    from quantpipe.data.checked import without_damaged

    return without_damaged(
        _read(settings, split),
        memo / f"images-{split}.json",
        max_bad_images=settings.max_bad_images,
        decode=split == "val",
    )


@cache
def _read(settings: CocoSettings | YoloSettings, split: Split) -> DetectionDataset:
    """Reads a split once in a process: several steps look at the same data."""
    if isinstance(settings, CocoSettings):
        from quantpipe.data.coco import read_coco

        images, annotations = _coco_paths(settings, split)
        return read_coco(
            images,
            annotations,
            max_bad_images=settings.max_bad_images,
            strict=settings.strict,
        )
    from quantpipe.data.yolo import read_yolo

    return read_yolo(
        settings.root,
        split,
        class_names=settings.class_names,
        allow_unlabelled=settings.allow_unlabelled,
        max_bad_images=settings.max_bad_images,
        strict=settings.strict,
    )


def _coco_paths(settings: CocoSettings, split: Split) -> tuple[Path, Path]:
    from quantpipe.data.coco_layout import find_coco_split

    images = getattr(settings, f"{split}_images")
    annotations = getattr(settings, f"{split}_annotations")
    if images is None or annotations is None:
        assert settings.root is not None
        found = find_coco_split(settings.root, split)
        images, annotations = images or found[0], annotations or found[1]
    return images, annotations


__all__ = [
    "CocoSettings",
    "DataSettings",
    "ShapesSettings",
    "YoloSettings",
    "check_data",
    "choose_images",
    "data_content",
    "open_split",
]
