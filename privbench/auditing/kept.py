"""What an audit keeps in its folder: finished attacks, and the state of an unfinished one; a repeated audit continues there."""

import hashlib
import json
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from privbench.auditing.findings import AttackFinding
from privbench.computing.interrupt import Interruption
from privbench.core import Attack, Observation, Progress, Reconstruction
from privbench.store.files import atomic_write

__all__ = ["AuditProgress", "KeptAttacks", "OutOfTimeError", "Step"]

Step = Callable[[str, int, int, float], None]
"""Told now and then: what is at work, its step, of how many, and the seconds that are left."""

_INTERVAL = 20.0
"""Seconds between states that are kept."""


class OutOfTimeError(Exception):
    """The time given to an audit was up while an attack was at work, whose state is kept."""


@dataclass(frozen=True)
class KeptAttacks:
    """The attacks on one update, by what decides their result. A role is what an attack is run for, and to what end.

    Attributes:
        folder: Of the audit; None: nothing is kept.
        observation: The update.
        described: What else belongs to the audit's identity.
    """

    folder: Path | None
    observation: Observation
    described: str

    def file(self, name: str, attack: Attack, role: str = "") -> Path | None:
        """Where an attack is kept."""
        if self.folder is None:
            return None
        digest = hashlib.sha256(json.dumps([name, attack.parameters(), role, self.described]).encode())
        for kind, tensors in (("update", self.observation.update), ("state", self.observation.model_state)):
            for key, value in sorted(tensors.items()):
                digest.update(f"{kind} {key}".encode())
                digest.update(value.cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        return self.folder / ".work" / f"{name}-{digest.hexdigest()[:12]}.safetensors"

    def keep(self, name: str, attack: Attack, role: str, finding: AttackFinding, found: Reconstruction) -> None:
        """Keeps a finished attack."""
        path = self.file(name, attack, role)
        if path is None:
            return
        atomic_write(path, save({"images": found.images.cpu().contiguous()}, {"finding": json.dumps(asdict(finding))}))

    def kept(self, name: str, attack: Attack, role: str) -> tuple[AttackFinding, Reconstruction] | None:
        """A finished attack; None where there is none, or none that can be read."""
        path = self.file(name, attack, role)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(str(path), framework="pt") as file:
                said = json.loads(file.metadata()["finding"])
                images = file.get_tensor("images")
            said = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
            finding = AttackFinding(**said)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return None
        return finding, Reconstruction(images, torch.tensor(finding.labels), flags=finding.flags)


class AuditProgress(Progress):
    """Progress of one attack of an audit: steps are told, states are kept, and it stops at the next state where it has to.

    Args:
        label: What is at work.
        path: Where its state is kept; None: nowhere.
        interruption: Whether to stop.
        step: Told where it stands.
        inner: Of the caller, told the same.
        deadline: When the time is up, by `time.perf_counter`; None: never.
    """

    def __init__(
        self,
        label: str,
        path: Path | None,
        interruption: Interruption,
        step: Step,
        inner: Progress,
        deadline: float | None = None,
    ) -> None:
        self._label, self._path, self._interruption = label, path, interruption
        self._step, self._inner, self._deadline = step, inner, deadline
        self._at = ""
        self._began = self._saved = time.perf_counter()
        self._first: int | None = None
        self._state = _state_at(path)

    def report(self, step: int, total: int, phase: str, *losses: Mapping[str, float]) -> None:
        """Tells the step and how long the rest will take at the present speed."""
        self._interruption.raise_if_at_once()
        if self._first is None:
            self._began, self._first = time.perf_counter(), step
        done = step - self._first
        left = (time.perf_counter() - self._began) / done * (total - step) if done else float("nan")
        self._at = f"step {step} of {total}"
        self._step(self._label, step, total, left)
        self._inner.report(step, total, phase, *losses)

    def picture(self, step: int, *images: torch.Tensor) -> None:
        """Hands it on."""
        self._inner.picture(step, *images)

    def save(self, state: Mapping[str, Any]) -> None:
        """Keeps a state where one is due, a stop was requested or the time is up, and stops in these cases.

        Raises:
            OutOfTimeError: The time is up.
        """
        self._interruption.raise_if_at_once()
        self._interruption.saves(self)
        late = self._deadline is not None and time.perf_counter() >= self._deadline
        stops = late or self._interruption.requested is not None
        if self._path is not None and (stops or time.perf_counter() - self._saved >= _INTERVAL):
            buffer = BytesIO()
            torch.save(dict(state), buffer)
            atomic_write(self._path, buffer.getvalue())
            self._saved = time.perf_counter()
        self._interruption.raise_if_requested()
        if late:
            raise OutOfTimeError(self._at)

    def restore(self) -> Mapping[str, Any] | None:
        """The state that an earlier audit kept last; None where there is none."""
        return self._state

    def done(self) -> None:
        """Forgets the state."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _state_at(path: Path | None) -> Mapping[str, Any] | None:
    if path is None or not path.is_file():
        return None
    try:
        state = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None
    return state if isinstance(state, dict) else None
