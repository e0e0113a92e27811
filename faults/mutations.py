"""Ways to damage a file, each of which changes its bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """What was done to the bytes, and the bytes after it; None where the file is removed."""

    what: str
    content: bytes | None


def mutations(content: bytes, chance: random.Random, number: int) -> Iterator[Mutation]:
    """``number`` of them: more than half are single bits, the rest cuts, ends, blocks, removals."""
    fixed = [
        Mutation(what="removed", content=None),
        Mutation(what="emptied", content=b""),
        Mutation(what="one byte too many", content=content + b"\0"),
        Mutation(what="twice", content=content + content),
        Mutation(what="one byte short", content=content[:-1]),
        Mutation(what="first byte lost", content=content[1:]),
    ]
    kinds = (_flipped, _flipped, _flipped, _cut, _zeroed, _swapped_blocks)
    done = 0
    while done < number:
        mutation = fixed[done] if done < len(fixed) else chance.choice(kinds)(content, chance)
        if mutation.content != content:
            yield mutation
            done += 1


def _flipped(content: bytes, chance: random.Random) -> Mutation:
    bit = chance.randrange(len(content) * 8)
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return Mutation(what=f"bit {bit} flipped", content=bytes(changed))


def _cut(content: bytes, chance: random.Random) -> Mutation:
    length = chance.randrange(len(content))
    return Mutation(what=f"cut to {length} bytes", content=content[:length])


def _zeroed(content: bytes, chance: random.Random) -> Mutation:
    """A block that a disk gave back as zeros, as long as it should be."""
    start = chance.randrange(len(content))
    size = min(chance.choice((1, 16, 512)), len(content) - start)
    changed = content[:start] + bytes(size) + content[start + size :]
    if changed == content:
        return _flipped(content, chance)
    return Mutation(what=f"zeros at {start}", content=changed)


def _swapped_blocks(content: bytes, chance: random.Random) -> Mutation:
    size = max(1, len(content) // 8)
    first, second = (chance.randrange(0, len(content) - size + 1) for _ in range(2))
    changed = bytearray(content)
    changed[first : first + size] = content[second : second + size]
    if changed == content:
        return _flipped(content, chance)
    return Mutation(what=f"block of {second} at {first}", content=bytes(changed))
