"""Weights & Biases: online where the user has logged in, in files with `WANDB_MODE=offline`."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from privbench.core import Logger

__all__ = ["WandbLogger"]


class WandbLogger(Logger):
    """One run of the project `privbench`, or of `WANDB_PROJECT`; arguments as of `Logger`."""

    name = "wandb"
    packages = ("wandb",)
    extra = "wandb"

    def __init__(self, run: str, folder: Path, settings: Mapping[str, str | int | float | bool]) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        # Its own lines would tear the progress line; runs may overlap: those of an ensemble's members.
        quiet = wandb.Settings(silent=True, console="off")
        project = quiet.project or "privbench"
        self._image = wandb.Image
        self._run = wandb.init(
            project=project, name=run, dir=str(folder), config=dict(settings), settings=quiet, reinit="create_new"
        )
        self._parts: set[str] = set()

    @property
    def where(self) -> str:
        """The page of the run, or its folder and the command that uploads it."""
        return f"wandb sync {Path(self._run.dir).parent}" if self._run.offline else str(self._run.url)

    def values(self, part: str, step: int, values: Mapping[str, float]) -> None:
        """One chart for each loss of each part, over the part's own steps: those of a run must rise and these begin anew."""
        self._run.log({**{f"{part}/{name}": value for name, value in values.items()}, self._step(part): step})

    def picture(self, part: str, step: int, image: Tensor) -> None:
        """One picture for each part, with a slider over steps."""
        shown = self._image(image.permute(1, 2, 0).numpy())
        self._run.log({f"{part}/reconstruction": shown, self._step(part): step})

    def _step(self, part: str) -> str:
        name = f"{part}/step"
        if part not in self._parts:
            self._parts.add(part)
            self._run.define_metric(f"{part}/*", step_metric=name)
        return name

    def end(self, summary: Mapping[str, float]) -> None:
        """Writes the scores and waits until everything is sent or stored; a run without scores counts as failed."""
        self._run.summary.update({f"score/{name}": value for name, value in summary.items()})
        self._run.finish(exit_code=0 if summary else 1)
