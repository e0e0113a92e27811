"""Plans by module paths, for networks that nothing ranked."""

from collections.abc import Sequence

from quantpipe.quantization.precision_plan import PrecisionPlan


def all_int8(names: Sequence[str], *, keep_float: Sequence[str] = ()) -> PrecisionPlan:
    """Quantizes every operation but those at or under the module paths in ``keep_float``."""
    kept = {n for n in names for path in keep_float if n == path or n.startswith(f"{path}.")}
    return PrecisionPlan(
        operations={name: "float" if name in kept else "int8" for name in names}, reason=""
    )
