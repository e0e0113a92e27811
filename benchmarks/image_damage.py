"""What a look for damage costs beside digests and decoding: ms for an image of 640x480.

python benchmarks/image_damage.py --images /data/bccd/train
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from quantpipe.data.damage import found_damage
from quantpipe.data.images import read_image
from quantpipe.data.listing import image_files
from quantpipe.files import sha256_bytes

WORK: dict[str, Callable[[Path, bytes], object]] = {
    "look": lambda path, content: found_damage(path, content, decode=False),
    "digest": lambda path, content: sha256_bytes(content),  # noqa: ARG005
    "decode": lambda path, content: read_image(path),  # noqa: ARG005
}


def main() -> None:
    """Prints a line for each format and kind of work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--count", type=int, default=30)
    options = parser.parse_args()
    sources = sorted(image_files(options.images))[: options.count]
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("png", "jpg"):
            paths = []
            for number, source in enumerate(sources):
                paths.append(Path(folder) / f"{number}.{suffix}")
                with Image.open(source) as image:
                    image.convert("RGB").resize((640, 480)).save(paths[-1], quality=95)
            contents = [(path, path.read_bytes()) for path in paths]
            for name, work in WORK.items():
                print(f"{suffix} {name}: {_milliseconds(work, contents):.3f} ms")


def _milliseconds(
    work: Callable[[Path, bytes], object], contents: list[tuple[Path, bytes]]
) -> float:
    start = time.process_time()
    for path, content in contents:
        work(path, content)
    return (time.process_time() - start) / len(contents) * 1e3


if __name__ == "__main__":
    main()
