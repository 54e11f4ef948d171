"""TensorBoard: event files below the output folder, read by `tensorboard --logdir`."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from privbench.core import Logger

__all__ = ["TensorBoardLogger"]


class TensorBoardLogger(Logger):
    """Writes one folder of event files for each run; arguments as of `Logger`."""

    name = "tensorboard"
    packages = ("tensorboard",)
    extra = "tensorboard"

    def __init__(self, run: str, folder: Path, settings: Mapping[str, str | int | float | bool]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._writer = SummaryWriter(str(folder / run))
        rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
        self._writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}")

    @property
    def where(self) -> str:
        """The command that shows it."""
        return f"tensorboard --logdir {self._folder}"

    def values(self, part: str, step: int, values: Mapping[str, float]) -> None:
        """One chart for each loss of each part."""
        for name, value in values.items():
            self._writer.add_scalar(f"{name}/{part}", value, step)

    def picture(self, part: str, step: int, image: Tensor) -> None:
        """One picture for each part, with a slider over steps."""
        self._writer.add_image(f"reconstruction/{part}", image, step)

    def end(self, summary: Mapping[str, float]) -> None:
        """Writes the scores and closes the files."""
        for name, value in summary.items():
            self._writer.add_scalar(f"score/{name}", value)
        self._writer.close()
