"""What a campaign of injected faults counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# Told of each fault when it is counted: whether it was survived.
WATCHERS: list[Callable[[bool], None]] = []


@dataclass(kw_only=True)
class Tally:
    """The counts of one campaign; only ``tried`` is meant to be above zero.

    Attributes:
        campaign: Its name, one word or two.
        rows: The numbers of the faults it injects, as they stand in ``docs/faults.md``.
        seed: What its random choices were made with.
        tried: Faults injected.
        survived: Of those, the ones after which everything was as promised.
        wrong_results: Results unlike those of an undisturbed run, or damaged and taken for whole.
        bytes_lost: Bytes of results that were published before the fault and gone after it.
        stages_redone: Finished stages that were computed again, beyond the one that was disturbed.
        steps_lost: Training steps done again beyond one interval between savings.
        duplicates: Results that two processes computed.
        temporary_files: Temporary files and staging folders left after the next run.
        code_run: Times that a file's code ran, or a file outside its root was opened.
        seconds: How long it took.
        failures: One line for each fault not survived, enough to repeat it.
        measured: Figures of its own, by what they are.
    """

    campaign: str
    rows: Sequence[int]
    seed: int
    tried: int = 0
    survived: int = 0
    wrong_results: int = 0
    bytes_lost: int = 0
    stages_redone: int = 0
    steps_lost: int = 0
    duplicates: int = 0
    temporary_files: int = 0
    code_run: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)

    def record(self, fault: str, problem: str | None) -> None:
        """Counts one fault; ``problem`` says what was not as promised."""
        self.tried += 1
        if problem is None:
            self.survived += 1
        else:
            self.failures.append(f"{fault}: {problem}")
        for watcher in WATCHERS:
            watcher(problem is None)


# A campaign: (seed, share of the full number of faults in 0..1) -> its counts.
Campaign = Callable[[int, float], Tally]
