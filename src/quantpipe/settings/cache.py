"""The ``cache`` group: use the store of results, or look after it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from quantpipe.schema import Between


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """What to do with the cache, and what ``prune`` may remove."""

    action: Literal["use", "list", "verify", "prune"]
    runs: Path
    max_age_days: Annotated[float | None, Between(0)]
    max_gib: Annotated[float | None, Between(0)]
