"""What a case keeps between interruptions: finished batches as JSON, and the state of each group that is being attacked.

A file that cannot be used is never a wrong number: it is told, and its batches start over.
"""

import json
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch.serialization import default_restore_location

from privbench import __version__
from privbench.core import Case, ImageResult
from privbench.store.files import atomic_write
from privbench.store.layout import WORK
from privbench.store.trace import TraceRow

__all__ = ["BatchGroup", "Checkpoint", "Checkpoints", "FinishedBatch"]

_STATE_SCHEMA = 3


@dataclass(frozen=True)
class BatchGroup:
    """Which client batches are attacked together: those of a case in so many at a time, counted from the first batch.

    Attributes:
        first: Its first batch, a multiple of `size`.
        size: How many batches a group has; the last one of a case may have fewer.
    """

    first: int
    size: int

    @classmethod
    def of(cls, batch: int, size: int) -> "BatchGroup":
        """The group of a batch."""
        return cls(batch - batch % size, size)

    @property
    def batches(self) -> range:
        """Its batches, as if the case had no end."""
        return range(self.first, self.first + self.size)

    @property
    def file_name(self) -> str:
        """The name of its checkpoint."""
        return f"batches-{self.batches[0]:05d}-{self.batches[-1]:05d}.pt"

    @classmethod
    def from_file_name(cls, name: str) -> "BatchGroup | None":
        """The group of a checkpoint's name, None where it is not the name of one."""
        found = re.fullmatch(r"batches-(\d+)-(\d+)\.pt", name)
        return cls(int(found[1]), int(found[2]) + 1 - int(found[1])) if found else None


@dataclass(frozen=True)
class Checkpoint:
    """An interrupted group.

    Attributes:
        batches: The client batches that the attack took together, in its order.
        state: The attack's own state, exactly as it was handed over.
        traces: What the attack had reported of each batch by then.
        seconds: Wall time that the attack had used by then.
        pictures: What the attack had shown of each batch by then: step to `[batch, 3, height, width]` uint8.
    """

    batches: tuple[int, ...]
    state: Mapping[str, Any]
    traces: tuple[tuple[TraceRow, ...], ...]
    seconds: float
    pictures: tuple[Mapping[int, torch.Tensor], ...] = ()


@dataclass(frozen=True)
class FinishedBatch:
    """One client batch, attacked and scored.

    Attributes:
        images: One result per private image, in the order of the batch.
        trace: What the attack reported.
        seconds: Wall time of the attack on the whole batch, an equal share of its group's.
        group: How many batches were attacked together with it, itself included.
    """

    images: tuple[ImageResult, ...]
    trace: tuple[TraceRow, ...]
    seconds: float
    group: int


class Checkpoints:
    """The checkpoints and finished batches of one case.

    Args:
        path: The case's folder.
        case: The case.
    """

    def __init__(self, path: Path, case: Case) -> None:
        self.path = path
        self.case = case

    def _state_path(self, group: BatchGroup) -> Path:
        return self.path / WORK / group.file_name

    def _batch_path(self, batch: int) -> Path:
        return self.path / WORK / f"batch-{batch:05d}.json"

    def interrupted(self) -> list[BatchGroup]:
        """The groups that have a checkpoint, by size and place."""
        groups = [BatchGroup.from_file_name(path.name) for path in (self.path / WORK).glob("*.pt")]
        return sorted((group for group in groups if group is not None), key=lambda group: (group.size, group.first))

    def save_checkpoint(self, group: BatchGroup, device: torch.device, checkpoint: Checkpoint) -> None:
        """Keeps the state of an unfinished group.

        Raises:
            StoreError: The place cannot be written.
        """
        buffer = BytesIO()
        torch.save({**self._stamp(device), **vars(checkpoint), "state": dict(checkpoint.state)}, buffer)
        atomic_write(self._state_path(group), buffer.getvalue())

    def drop_checkpoint(self, group: BatchGroup) -> None:
        """Forgets the state of a group: it is finished, or will not be continued."""
        self._state_path(group).unlink(missing_ok=True)

    def load_checkpoint(self, group: BatchGroup, device: torch.device) -> tuple[Checkpoint | None, str | None]:
        """Reads the state of an unfinished group.

        Returns:
            The checkpoint, or None with the reason why the one that lies there cannot be used, or None and None.
        """
        path = self._state_path(group)
        if not path.exists():
            return None, None
        try:
            content = torch.load(path, map_location=_onto(device), weights_only=True)
            batches = tuple(map(int, content["batches"]))
            traces = tuple(map(_trace, content["traces"]))
            pictures = tuple(map(dict, content["pictures"]))
            checkpoint = Checkpoint(batches, content["state"], traces, float(content["seconds"]), pictures)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError, ValueError) as error:
            return None, f"the checkpoint {path} is damaged ({type(error).__name__})"
        stamp = self._stamp(device)
        differing = [key for key, value in stamp.items() if content.get(key) != value]
        if differing:
            key = differing[0]
            return None, f"the checkpoint {path} is of another {key} ({content.get(key)}, here {stamp[key]})"
        if not set(batches) <= set(group.batches) or len(traces) != len(batches):
            return None, f"the checkpoint {path} is of other batches ({', '.join(map(str, batches))})"
        return checkpoint, None

    def _stamp(self, device: torch.device) -> dict[str, Any]:
        return {
            "format": _STATE_SCHEMA,
            "version": __version__,
            "case": self.case.identity,
            "device": device.type,
        }

    def save_batch(self, batch: int, finished: FinishedBatch) -> None:
        """Keeps the results of a finished batch.

        Raises:
            StoreError: The place cannot be written.
        """
        content = {
            "format": _STATE_SCHEMA,
            "version": __version__,
            "case": self.case.identity,
            "images": [image.model_dump(mode="json") for image in finished.images],
            "trace": finished.trace,
            "seconds": finished.seconds,
            "group": finished.group,
        }
        atomic_write(self._batch_path(batch), json.dumps(content).encode())

    def save_shown(self, batch: int, shown: Mapping[int, torch.Tensor]) -> None:
        """Keeps what the attack had shown of a finished batch on the way: step to `[batch, 3, height, width]` uint8.

        Raises:
            StoreError: The place cannot be written.
        """
        buffer = BytesIO()
        torch.save({step: guess.clone() for step, guess in shown.items()}, buffer)
        atomic_write(self._shown_path(batch), buffer.getvalue())

    def load_shown(self, batch: int) -> dict[int, torch.Tensor]:
        """What `save_shown` kept; nothing where there is none, or none that can be read."""
        try:
            found = torch.load(self._shown_path(batch), weights_only=True)
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError):
            return {}
        return dict(found) if isinstance(found, dict) else {}

    def _shown_path(self, batch: int) -> Path:
        return self._batch_path(batch).with_suffix(".shown.pt")

    def load_batch(self, batch: int) -> tuple[FinishedBatch | None, str | None]:
        """Reads the results of a finished batch.

        Returns:
            The results, or None with the reason why the file that lies there cannot be used, or None and None.
        """
        path = self._batch_path(batch)
        if not path.exists():
            return None, None
        try:
            content = json.loads(path.read_bytes())
            images = tuple(ImageResult.model_validate(image) for image in content["images"])
            finished = FinishedBatch(images, _trace(content["trace"]), float(content["seconds"]), int(content["group"]))
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            return None, f"the batch {path} is damaged ({type(error).__name__})"
        if (content.get("format"), content.get("version"), content.get("case")) != (
            _STATE_SCHEMA,
            __version__,
            self.case.identity,
        ):
            return None, f"the batch {path} is of another case or version"
        pictures = [image.reconstruction for image in images if image.reconstruction is not None]
        missing = next((name for name in pictures if not (self.path / name).is_file()), None)
        if missing is not None:
            return None, f"the picture {self.path / missing} is missing"
        return finished, None


def _trace(rows: Iterable[Any]) -> tuple[TraceRow, ...]:
    return tuple((int(step), str(phase), dict(losses)) for step, phase, losses in rows)


def _onto(device: torch.device) -> Callable[[Any, str], Any]:
    """Tensors of the accelerator go to this run's one; those of the CPU, such as generator states, stay."""

    def place(storage: Any, location: str) -> Any:
        return default_restore_location(storage, location if location == "cpu" else str(device))  # type: ignore[no-untyped-call]

    return place
