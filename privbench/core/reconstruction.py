"""What an attack returns, and the channel through which it reports and saves its progress."""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from privbench.core.choices import InferredChoices
from privbench.core.errors import StoreError

__all__ = ["Failure", "Progress", "Reconstruction"]


@dataclass(frozen=True)
class Reconstruction:
    """The attacker's guess.

    Attributes:
        images: `[batch, 3, height, width]` in [0, 1].
        labels: `[batch]` int64, known or recovered; None where the attack needs no labels.
        losses: The final value of each objective term, by name, as the attacker saw it.
        steps: Optimisation steps taken, restarts included; 0 for a closed form.
        trials: Independent trials run side by side.
        flags: Reliability remarks, such as `labels-guessed`.
        inferred: What the attacker believes of the client's mask and orders without having been told. Scored where the client
            chose one.
        explained: Share of the update that the images explain, as the adversary simulates the client; set by whoever runs the
            attack, None where it was not measured. An attack leaves it alone.
    """

    images: Tensor
    labels: Tensor | None = None
    losses: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    trials: int = 1
    flags: tuple[str, ...] = ()
    inferred: InferredChoices = field(default_factory=InferredChoices)
    explained: float | None = None

    def save(self, folder: Path | str) -> list[Path]:
        """Writes the guess into a folder, which is made: `image-0.png` and so on, the exact floats, and what is known of them.

        Args:
            folder: Where to; files of these names are replaced.

        Returns:
            The files: pictures, `images.safetensors` (`images`, float32), `reconstruction.json`.

        Raises:
            StoreError: The folder cannot be written.
        """
        folder = Path(folder)
        pictures = [folder / f"image-{number}.png" for number in range(len(self.images))]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path, picture in zip(pictures, self._pictures(), strict=True):
                picture.save(path)
            save_file({"images": self.images.detach().float().cpu().contiguous()}, str(folder / "images.safetensors"))
            (folder / "reconstruction.json").write_text(json.dumps(self._described(), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise StoreError(f"cannot write to {folder}: {error.strerror or error}; choose another folder") from None
        return [*pictures, folder / "images.safetensors", folder / "reconstruction.json"]

    def _described(self) -> dict[str, Any]:
        return {
            "labels": None if self.labels is None else self.labels.tolist(),
            "losses": {name: float(value) for name, value in self.losses.items()},
            "steps": self.steps,
            "trials": self.trials,
            "flags": list(self.flags),
            "explained": self.explained,
        }

    def _pictures(self) -> list[Image.Image]:
        # The rounding of `scoring.to_uint8`.
        levels = (self.images.detach().cpu().double().clamp(0, 1) * 255 + 0.5).floor().byte()
        return [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in levels]

    def _repr_html_(self) -> str:
        """The pictures, for a notebook."""
        shown = []
        for picture in self._pictures()[:_SHOWN]:
            buffer = io.BytesIO()
            picture.save(buffer, format="PNG")
            data = base64.b64encode(buffer.getvalue()).decode("ascii")
            style = "image-rendering: pixelated; margin: 2px; height: 160px"
            shown.append(f'<img alt="reconstruction" style="{style}" src="data:image/png;base64,{data}">')
        return f"<div>{''.join(shown)}</div><div>{_facts(self._described())}</div>"


_SHOWN = 16
"""At most so many pictures appear in a notebook."""


def _facts(described: Mapping[str, Any]) -> str:
    """One line of plain words and numbers; flags and names of losses are escaped."""
    losses = ", ".join(f"{name} {value:.3g}" for name, value in described["losses"].items())
    flags = ", ".join(described["flags"])
    share = described["explained"]
    explained = "" if share is None else f"explains {share:.3f} of the update"
    parts = (explained, f"labels {described['labels']}", losses, f"flags: {flags}" if flags else "")
    text = "; ".join(part for part in parts if part)
    return text.replace("&", "&amp;").replace("<", "&lt;")


@dataclass(frozen=True)
class Failure:
    """No guess: one observation of a group could not be attacked, the others are not touched by it.

    Attributes:
        reason: Why, in one line.
    """

    reason: str


class Progress:
    """How a long attack talks to whoever runs it; the defaults do nothing, so an attack may always call it."""

    def report(self, step: int, total: int, phase: str, *losses: Mapping[str, float]) -> None:
        """Tells where the attack stands: `step` of `total` done, in `phase` of its schedule.

        `losses` is one mapping, or one for each observation of a group that is attacked together.
        """

    def picture(self, step: int, *images: Tensor) -> None:
        """Shows how far the guess is after `step` steps: `[batch, 3, height, width]` in [0, 1] for each observation.

        It is kept and scored once the attack is over; nothing of the score comes back.
        """

    def note(self, message: str) -> None:
        """Tells something that the user should know, in one line."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Keeps a checkpoint (tensors, numbers, strings and containers of them) if the caller wants one now."""

    def restore(self) -> Mapping[str, Any] | None:
        """The last checkpoint of this very attack on these very observations, or None."""
        return None
