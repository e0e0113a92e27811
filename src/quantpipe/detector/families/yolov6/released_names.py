"""How the names of released files become ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def canonical(name: str) -> str:
    """A name without the levels that only one generation of the released names has.

    0.2.0 has no ``sppf.`` and no ``block.`` between a conv-bn-activation and its parts; fused
    RepVGG blocks call their convolution ``rbr_reparam``.
    """
    levels = f"{name}."
    for level in ("conv", "bn"):
        levels = levels.replace(f".block.{level}.", f".{level}.")
    return levels.replace(".sppf.", ".").replace(".rbr_reparam.", ".conv.")[:-1]


def operation_namer(names: Iterable[str]) -> Callable[[str], str | None]:
    """What finds ours among ``names`` by a released name of either generation."""
    ours = our_names(names)
    return lambda name: ours.get(canonical(name))


def our_names(names: Iterable[str]) -> dict[str, str]:
    """Maps canonical names to ours, for the names of one of our networks."""
    return {canonical(name): name for name in names}
