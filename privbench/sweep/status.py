"""Where cases stand: done, running, begun, failed, or planned and not begun; read from which files are there."""

import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from pydantic import ValidationError

from privbench.core import Case, FailedCase, Record, UserError
from privbench.store.base import Store
from privbench.store.case_folder import CaseFolder
from privbench.store.layout import FAILURE, MEMBERS, RECORD, WORK
from privbench.store.places import case_names

__all__ = ["CaseState", "CaseStatus", "state_in", "state_of", "survey"]


class CaseState(StrEnum):
    """Where a case stands."""

    WAITING = "waiting"
    BEGUN = "begun"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


def state_of(folder: CaseFolder) -> tuple[CaseState, Record | FailedCase | None]:
    """Where a case stands in a folder, with its record or the reason of its failure."""
    if (record := folder.record()) is not None:
        return CaseState.DONE, record
    if folder.is_locked():
        return CaseState.RUNNING, None
    if (failure := folder.failure()) is not None:
        return CaseState.FAILED, failure
    return (CaseState.BEGUN if folder.has_progress() else CaseState.WAITING), None


def state_in(store: Store, case: Case) -> tuple[CaseState, Record | FailedCase | None]:
    """Where a case stands in a store, as far as this machine can see it.

    Raises:
        StoreError: The store cannot be read.
    """
    if (found := store.find(case)) is not None and isinstance(found, Record):
        return CaseState.DONE, found
    state, _ = state_of(CaseFolder(store.working, case))
    if state is CaseState.RUNNING:
        return state, None
    if found is not None:
        return CaseState.FAILED, found
    # What is finished in the working folder and not in the store is still to be published.
    return (CaseState.BEGUN if state in {CaseState.DONE, CaseState.FAILED} else state), None


@dataclass(frozen=True)
class CaseStatus:
    """Where one case stands.

    Attributes:
        name: The case's folder within its store; it need not be there yet.
        state: Where it stands.
        detail: Why it failed, or how much of it is done; empty where there is nothing to say.
    """

    name: str
    state: CaseState
    detail: str = ""


def survey(store: Store) -> list[CaseStatus]:
    """All cases of a store and those of the studies whose plans lie in it, sorted by name.

    It looks at which files are there, not into records, so that large folders answer at once.

    Raises:
        UserError: The store cannot be read, or holds no case.
    """
    files = store.list()
    planned = {case for name in files if name.startswith("study--") and "/" not in name for case in _planned(store, name)}
    cases = sorted(planned | case_names(store))
    if not cases:
        raise UserError(f"there is no case in {store}; give a folder that `privbench run` or `privbench sweep` wrote to")
    known = set(cases)
    inside: dict[str, list[str]] = defaultdict(list)
    for name in files:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            if (case := "/".join(parts[:depth])) in known:
                inside[case].append("/".join(parts[depth:]))
                break
    return [_status(store, case, inside[case]) for case in cases]


def _planned(store: Store, plan: str) -> list[str]:
    try:
        return [str(name) for name in json.loads(store.read(plan) or b"")["folders"]]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"the plan {store / plan} is damaged; repeat the sweep, which writes it anew") from None


def _status(store: Store, case: str, files: Sequence[str]) -> CaseStatus:
    if RECORD in files:
        return CaseStatus(case, CaseState.DONE)
    batches = sum(name.startswith(f"{WORK}/batch-") for name in files)
    members = sum(name.startswith(f"{MEMBERS}/") and name.count("/") == 2 and name.endswith(f"/{RECORD}") for name in files)
    detail = f"{batches} batches finished" if batches else f"{members} attacks finished" if members else ""
    if store.is_running(case):
        return CaseStatus(case, CaseState.RUNNING, detail)
    if FAILURE in files:
        # A damaged one says nothing, and the next sweep tries the case again.
        with suppress(ValidationError):
            failure = FailedCase.model_validate_json(store.read(f"{case}/{FAILURE}") or b"")
            return CaseStatus(case, CaseState.FAILED, failure.reason)
    begun = any(name.startswith((f"{WORK}/", f"{MEMBERS}/")) for name in files)
    return CaseStatus(case, CaseState.BEGUN if begun else CaseState.WAITING, detail)
