"""What a display of progress is made of: derive from a listener, and read where a case or a study stands."""

from privbench.runner.listener import Listener, StepReport
from privbench.sweep.launch import StudyOutcome
from privbench.sweep.progress import SweepProgress
from privbench.sweep.status import CaseState
from privbench.sweep.work import SweepListener
from privbench.training.recipe import EpochReport
from privbench.watch.line import progress_line
from privbench.watch.position import Position, case_label, clock

__all__ = [
    "CaseState",
    "EpochReport",
    "Listener",
    "Position",
    "StepReport",
    "StudyOutcome",
    "SweepListener",
    "SweepProgress",
    "case_label",
    "clock",
    "progress_line",
]
