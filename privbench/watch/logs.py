"""What a run reports to experiment trackers: settings, losses, guesses and, at the end, scores.

A tracker that cannot begin is said before the attack; one that breaks later is left out and said, and the attack goes on.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from privbench.core import LOGGERS, Case, Logger, Record, UserError, mean_explained
from privbench.runner.listener import Listener, StepReport
from privbench.store.layout import LOGS

__all__ = ["LogListener", "RunLogs", "require_loggers"]


def require_loggers(names: Sequence[str]) -> None:
    """Refuses before the work begins a logger that there is not, or whose package is missing.

    Raises:
        UserError: As said.
    """
    for name in names:
        LOGGERS.get(name).require()


class RunLogs:
    """One run in every tracker that was asked for; as a context, it ends there where it was not ended before.

    Args:
        names: Registered loggers.
        run: What to call the run.
        output: Folder of all results; each logger gets one below it.
        settings: What is run, nested as JSON is.
        note: Takes a line that the user should know.

    Raises:
        UserError: A tracker cannot begin.
    """

    def __init__(
        self, names: Sequence[str], run: str, output: Path, settings: Mapping[str, Any], note: Callable[[str], None]
    ) -> None:
        self._note = note
        self._open: dict[str, Logger] = {}
        flat = dict(_flat(settings))
        for name in dict.fromkeys(names):
            try:
                self._open[name] = LOGGERS.get(name)(run, output / LOGS / name, flat)
            except UserError:
                raise
            except Exception as error:  # whatever a tracker raises
                raise UserError(f"--log {name} cannot begin: {_reason(error)}") from None
            note(f"logged to {name}: {self._open[name].where}")

    def values(self, part: str, step: int, values: Mapping[str, float]) -> None:
        """Hands losses on; arguments as of `Logger.values`."""
        self._each(lambda logger: logger.values(part, step, values))

    def picture(self, part: str, step: int, image: Tensor) -> None:
        """Hands a guess on; arguments as of `Logger.picture`."""
        self._each(lambda logger: logger.picture(part, step, image))

    def end(self, summary: Mapping[str, float]) -> None:
        """Ends the run everywhere; arguments as of `Logger.end`."""
        self._each(lambda logger: logger.end(summary))
        self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.end({})

    def _each(self, tell: Callable[[Logger], None]) -> None:
        for name, logger in list(self._open.items()):
            try:
                tell(logger)
            except Exception as error:  # whatever a tracker raises, the attack goes on
                del self._open[name]
                self._note(f"--log {name} broke and is left out from here on: {_reason(error)}")


class LogListener(Listener):
    """Reports each case that is computed as one run.

    Args:
        names: Registered loggers.
        output: Folder of all cases.
        note: Takes a line that the user should know.
    """

    def __init__(self, names: Sequence[str], output: Path, note: Callable[[str], None]) -> None:
        self._names = names
        self._output = output
        self._note = note
        self._cases: dict[str, RunLogs] = {}
        self._steps: dict[tuple[str, int], int] = {}

    def started(self, case: Case, batches: int, finished: Sequence[int]) -> None:
        """Begins a run."""
        settings = case.without_paths().model_dump(mode="json")
        self._cases[case.identity] = RunLogs(self._names, case.folder, self._output, settings, self._note)

    def step(self, case: Case, at: StepReport) -> None:
        """Reports the losses of each batch."""
        for batch, losses in zip(at.batches, at.losses, strict=True):
            self._steps[case.identity, batch] = at.step
            self._cases[case.identity].values(_part(case, batch), at.step, losses)

    def picture(self, case: Case, batches: Sequence[int], guesses: Sequence[Tensor]) -> None:
        """Reports the guess at each image."""
        for batch, guess in zip(batches, guesses, strict=True):
            step = self._steps.get((case.identity, batch), 0)
            for place, image in enumerate(guess):
                part = _part(case, batch) if len(guess) == 1 else f"{_part(case, batch)}-image-{place + 1}"
                self._cases[case.identity].picture(part, step, image)

    def finished(self, record: Record) -> None:
        """Reports the scores."""
        if (logs := self._cases.pop(record.case_id, None)) is not None:
            share = mean_explained(record.images)
            explained = {} if share is None else {"explained": share}
            logs.end({name: interval.mean for name, interval in record.summary.items()} | explained)

    def close(self) -> None:
        """Ends what was interrupted or has failed."""
        for logs in self._cases.values():
            logs.end({})
        self._cases.clear()


def _part(case: Case, batch: int) -> str:
    return f"{'image' if case.batch_size == 1 else 'batch'}-{batch + 1}"


def _flat(settings: Mapping[str, Any], above: str = "") -> list[tuple[str, str | int | float | bool]]:
    """Nested settings by dotted names."""
    flat: list[tuple[str, str | int | float | bool]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{above}{key}.")
        elif value is not None:
            flat.append((f"{above}{key}", value if isinstance(value, str | int | float | bool) else json.dumps(value)))
    return flat


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(": ")
