"""Studies: files that name many cases by axes, loaded, cut down, and computed on one machine or several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privbench.api.places import load_results, store_at
from privbench.api.runs import FOLDER_OF_RUNS

if TYPE_CHECKING:
    from privbench.results import Results
    from privbench.store.base import Store
    from privbench.sweep.launch import StudyOutcome, Watch
    from privbench.sweep.status import CaseStatus
    from privbench.sweep.study import Study

__all__ = ["LoadedStudy", "load_study", "require_launcher", "require_loggers"]


@dataclass(frozen=True)
class LoadedStudy:
    """A study with the place that its cases go to.

    Attributes:
        study: Its cases, resolved.
        place: Where they go.
    """

    study: "Study"
    place: "Store"

    def status(self) -> "list[CaseStatus]":
        """Where each case stands, in the order of the file."""
        from privbench.store.case_folder import CaseFolder
        from privbench.sweep.status import CaseStatus, state_of

        with self.place.open(everything=False) as local:
            return [CaseStatus(case.folder, state_of(CaseFolder(local, case))[0]) for case in self.study.cases]

    def run(self, watch: "Watch | None" = None, **how: Any) -> "StudyOutcome":
        """Computes what is not finished; call it again to continue.

        Args:
            watch: Who watches.
            **how: As the attributes of `Launch`: `launcher`, `jobs`, `device`, `threads`, `budget` in seconds, ...

        Raises:
            UserError: A choice is not accepted, or a package is missing.
            StoreError: The place cannot be written.
            Interrupted: Stopped by a signal; what is done is kept.
        """
        from privbench.plots.case_pictures import draw_case
        from privbench.sweep.launch import Launch, compute_study

        launch = Launch(**how)
        require_launcher(launch.launcher)
        require_loggers(launch.log)
        return compute_study(self.study, self.place, launch, draw_case, watch)

    def outcome(self) -> "StudyOutcome":
        """How far the study is."""
        from privbench.sweep.launch import outcome_of

        return outcome_of(self.study, self.place)

    def results(self) -> "Results":
        """The finished cases at the study's place.

        Raises:
            UserError: None is finished.
        """
        return load_results(self.place)


def load_study(
    path: Path | str,
    output: "Path | str | Store | None" = None,
    *,
    shard: tuple[int, int] | None = None,
    limit: int | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
) -> LoadedStudy:
    """Reads a study file and resolves its cases; computes nothing.

    Example:
        >>> study = privbench.load_study("results/studies/front.yaml", limit=2)  # doctest: +SKIP
        >>> study.run()  # doctest: +SKIP
        >>> study.results().leaderboard()  # doctest: +SKIP

    Args:
        path: A YAML file.
        output: Folder of all cases, or its URL; None: `results/runs/NAME`, the study's name.
        shard: `(i, n)`: every n-th case from the i-th on.
        limit: So many images in every case, one batch at least.
        settings: Of every case, whatever the file says: `{"seed": 1}` or `["seed=1"]`.

    Raises:
        UserError: The file cannot be read, a field is wrong, or a combination is not accepted.
    """
    from privbench.core import UserError
    from privbench.sweep.study import read_study

    overrides = dict(settings) if isinstance(settings, Mapping) else dict(map(_pair, settings))
    if limit is not None:
        overrides |= {"limit": limit, "indices": None}
    found = read_study(Path(path), overrides)
    if shard is not None:
        found = found.shard(*shard)
        if not found.cases:
            raise UserError(f"shard {shard[0]}/{shard[1]} of {path} has no case; choose fewer shards")
    return LoadedStudy(found, store_at(output or FOLDER_OF_RUNS / found.name))


def require_launcher(launcher: str) -> None:
    """Refuses a launcher whose package is not installed.

    Raises:
        UserError: It is not.
    """
    from privbench.core.packages import require_packages

    if launcher == "ray":
        require_packages("--launcher ray", ["ray"], "ray")


def require_loggers(names: Sequence[str]) -> None:
    """Refuses a logger that there is not, or whose package is not installed.

    Raises:
        UserError: As said.
    """
    from privbench.watch.logs import require_loggers as require

    require(names)


def _pair(text: str) -> tuple[str, str]:
    from privbench.core import UserError

    key, equals, value = text.partition("=")
    if not (key.strip() and equals and value.strip()):
        raise UserError(f"cannot read --set '{text}'; accepted: KEY=VALUE, such as seed=1")
    return key.strip(), value.strip()
