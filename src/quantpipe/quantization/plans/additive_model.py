"""What INT8 costs in each operation, as shares of what it costs in all of them."""

from __future__ import annotations

from collections.abc import Mapping

from quantpipe.quantization.sensitivity.table import SensitivityTable


def shares_of_degradation(table: SensitivityTable) -> dict[str, float]:
    """Returns the share of each operation in the degradation of all, by an additive model.

    With method ``map`` the degradation is an operation's drop of mAP (a text without the float
    network's mAP: that behind the best operation), with the others its score; below zero counts as
    zero. All shares are equal where none degrades anything.
    """
    best = max(row.score for row in table.rows)
    degradation = {}
    for row in table.rows:
        lost = row.score
        if table.method == "map":
            lost = best - row.score if row.drop is None else row.drop
        degradation[row.name] = max(lost, 0.0)
    total = sum(degradation.values())
    if total <= 0:
        return dict.fromkeys(degradation, 1 / len(degradation))
    return {name: value / total for name, value in degradation.items()}


def predicted_drops(shares: Mapping[str, float], all_int8: float) -> dict[str, float]:
    """Returns the drop of mAP that each operation stands for when all of them lose ``all_int8``."""
    return {name: share * max(all_int8, 0.0) for name, share in shares.items()}
