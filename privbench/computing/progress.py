"""Progress of one attack, seen from the run: the attack's reports become a trace, its states checkpoints."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from privbench.computing.interrupt import Interruption
from privbench.core import Progress
from privbench.scoring import to_uint8
from privbench.store.checkpoints import Checkpoint
from privbench.store.trace import TraceRow

__all__ = ["AttackProgress", "ProgressSinks"]


@dataclass(frozen=True)
class ProgressSinks:
    """Where progress goes. An attack holds its progress channel, so none of these functions may lead to the secret.

    Attributes:
        keep: Takes a checkpoint.
        show: Takes step, total, phase, and the losses of each batch.
        say: Takes a note.
        picture: Takes the present guess for each batch, `[batch, 3, height, width]` uint8.
        explain: Takes the present guess at the first batch, `[batch, 3, height, width]` in [0, 1]; returns the share of the
            observed update that it explains, None where that cannot be told.
    """

    keep: Callable[[Checkpoint], None]
    show: Callable[[int, int, str, Sequence[Mapping[str, float]]], None]
    say: Callable[[str], None]
    picture: Callable[[Sequence[Tensor]], None]
    explain: Callable[[Tensor], float | None] = lambda _: None


class AttackProgress(Progress):
    """The progress channel of one group: it keeps trace and pictures of each batch, and checkpoints at intervals.

    Args:
        batches: The client batches of the group, in the order in which the attack gets them.
        checkpoint: Where an earlier attack on this very group stopped.
        sinks: Where to.
        interruption: Whether to stop.
        interval: Seconds between checkpoints at least.
    """

    def __init__(
        self,
        batches: tuple[int, ...],
        checkpoint: Checkpoint | None,
        sinks: ProgressSinks,
        interruption: Interruption,
        interval: float,
    ) -> None:
        self.traces: list[list[TraceRow]] = (
            [list(trace) for trace in checkpoint.traces] if checkpoint else [[] for _ in batches]
        )
        self.pictures: list[dict[int, Tensor]] = (
            [dict(shown) for shown in checkpoint.pictures] if checkpoint and checkpoint.pictures else [{} for _ in batches]
        )
        self.seconds_before = checkpoint.seconds if checkpoint else 0.0
        self._batches = batches
        self._state = checkpoint.state if checkpoint else None
        self._sinks = sinks
        self._explained: float | None = None
        self._interruption = interruption
        self._interval = interval
        self._began = self._saved = time.perf_counter()

    def seconds(self) -> float:
        """Wall time of the attack so far, earlier sessions included."""
        return self.seconds_before + time.perf_counter() - self._began

    def report(self, step: int, total: int, phase: str, *losses: Mapping[str, float]) -> None:
        """Adds a row to the trace of each batch.

        Raises:
            RuntimeError: There are neither losses of each batch nor one mapping for all.
        """
        self._interruption.raise_if_at_once()
        each = losses if len(losses) > 1 else (losses or ({},)) * len(self.traces)
        if len(each) != len(self.traces):
            raise RuntimeError(f"the attack reported losses of {len(each)} observations and was given {len(self.traces)}")
        values = [{name: float(value) for name, value in mapping.items()} for mapping in each]
        for trace, row in zip(self.traces, values, strict=True):
            trace.append((int(step), phase, row))
        # The share is shown with the losses and is none of them: it stays out of the trace.
        share = {} if self._explained is None else {"explained": self._explained}
        self._sinks.show(step, total, phase, [{**share, **values[0]}, *values[1:]])

    def picture(self, step: int, *images: Tensor) -> None:
        """Keeps a guess for each batch, with 8 bits, and shows it; it is scored when the attack is over.

        Raises:
            RuntimeError: There is not one for each batch.
        """
        if len(images) != len(self.pictures):
            raise RuntimeError(f"the attack showed {len(images)} guesses and was given {len(self.pictures)} observations")
        for shown, guess in zip(self.pictures, images, strict=True):
            shown[int(step)] = to_uint8(guess.detach().float().nan_to_num(0).clamp(0, 1).cpu())
        self._explained = self._sinks.explain(images[0].detach().float().nan_to_num(0).clamp(0, 1))
        self._sinks.picture([shown[int(step)] for shown in self.pictures])

    def note(self, message: str) -> None:
        """Hands a note on."""
        self._sinks.say(message)

    def save(self, state: Mapping[str, Any]) -> None:
        """Keeps a checkpoint where one is due or a stop was requested, and stops in that case."""
        self._interruption.raise_if_at_once()
        self._interruption.saves(self)
        due = time.perf_counter() - self._saved >= self._interval
        if due or self._interruption.requested is not None:
            traces = tuple(map(tuple, self.traces))
            self._sinks.keep(Checkpoint(self._batches, state, traces, self.seconds(), tuple(map(dict, self.pictures))))
            self._saved = time.perf_counter()
            self._interruption.raise_if_requested()

    def restore(self) -> Mapping[str, Any] | None:
        """The state that the last checkpoint holds."""
        return self._state
