"""The front door: what notebooks call, and all that the command line calls.

`run` attacks private images and scores what comes back, `attack` takes one observation, `score` judges pictures of any tool,
`load_results` reads what was computed before, `load_study` computes many cases, `train` and `evaluate` make and measure a
victim. Each function imports what it needs when it is called; `import privbench` offers all of them lazily.
"""

from privbench.api.catalogue import check, components, json_schema
from privbench.api.features import invert_features
from privbench.api.observations import attack, score
from privbench.api.places import FoundCase, figure, find_case, judge_claims, load_results, status, store_at, verify
from privbench.api.runs import CASE_OPTIONS, FOLDER_OF_RUNS, PlannedCase, plan, run
from privbench.api.studies import LoadedStudy, load_study
from privbench.api.victims import Evaluation, evaluate, train

__all__ = [
    "CASE_OPTIONS",
    "FOLDER_OF_RUNS",
    "Evaluation",
    "FoundCase",
    "LoadedStudy",
    "PlannedCase",
    "attack",
    "check",
    "components",
    "evaluate",
    "figure",
    "find_case",
    "invert_features",
    "json_schema",
    "judge_claims",
    "load_results",
    "load_study",
    "plan",
    "run",
    "score",
    "status",
    "store_at",
    "train",
    "verify",
]
