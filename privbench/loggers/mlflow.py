"""MLflow: the server that `MLFLOW_TRACKING_URI` names, else files below the output folder."""

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from privbench.core import Logger

__all__ = ["MlflowLogger"]

_EXPERIMENT = "privbench"
_LONGEST = 500
"""Letters that a setting may have for every version of its server."""
_FILES = "MLFLOW_ALLOW_FILE_STORE"
"""Without it, newer versions want a database where there is no server, which takes more packages."""


class MlflowLogger(Logger):
    """One run of the experiment `privbench`, or of `MLFLOW_EXPERIMENT_NAME`; arguments as of `Logger`."""

    name = "mlflow"
    packages = ("mlflow",)
    extra = "mlflow"

    def __init__(self, run: str, folder: Path, settings: Mapping[str, str | int | float | bool]) -> None:
        from mlflow import MlflowClient

        self._store = os.environ.get("MLFLOW_TRACKING_URI") or folder.resolve().as_uri()
        with _files_allowed():
            self._client = MlflowClient(self._store)
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
            experiment = self._client.get_experiment_by_name(name)
            number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self._run = self._client.create_run(number, run_name=run).info.run_id
        for key, value in settings.items():
            self._client.log_param(self._run, _key(key), str(value)[:_LONGEST])

    @property
    def where(self) -> str:
        """The command that shows it, or the server."""
        if not self._store.startswith("file:"):
            return self._store
        return f"{_FILES}=true mlflow ui --backend-store-uri {self._store}"

    def values(self, part: str, step: int, values: Mapping[str, float]) -> None:
        """One chart for each loss of each part."""
        for name, value in values.items():
            self._client.log_metric(self._run, f"{_key(name)}/{_key(part)}", value, step=step)

    def picture(self, part: str, step: int, image: Tensor) -> None:
        """One file for each guess, named by its step."""
        from PIL import Image

        shown = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        self._client.log_image(self._run, shown, f"{_key(part)}/{step:06d}.png")

    def end(self, summary: Mapping[str, float]) -> None:
        """Writes the scores; a run without scores counts as failed."""
        for name, value in summary.items():
            self._client.log_metric(self._run, f"score/{_key(name)}", value)
        self._client.set_terminated(self._run, "FINISHED" if summary else "FAILED")


@contextmanager
def _files_allowed() -> Iterator[None]:
    """Lets MLflow use files, unless the user said otherwise, and leaves the process as it was."""
    before = os.environ.get(_FILES)
    os.environ.setdefault(_FILES, "true")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if before is None:
            del os.environ[_FILES]


def _key(name: str) -> str:
    """What MLflow takes as a name."""
    return re.sub(r"[^\w. /-]", "-", name)
