"""What lies in a results folder: which cases are done, running, begun, failed, or planned and not begun."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from privbench.core import FailedCase, UserError
from privbench.store.folder import CASE, CLAIM, FAILURE, MEMBERS, RECORD, WORK, is_locked
from privbench.sweep.work import CaseState

__all__ = ["Standing", "find_case", "survey"]


@dataclass(frozen=True)
class Standing:
    """Where one case stands.

    Attributes:
        path: The case's folder; it need not be there yet.
        state: Where it stands.
        detail: Why it failed, or how much of it is done; empty where there is nothing to say.
    """

    path: Path
    state: CaseState
    detail: str = ""


def survey(folder: Path) -> list[Standing]:
    """All cases below a folder and those of the studies whose plans lie in it, sorted by path.

    It looks at which files are there, not into records, so that large folders answer at once.

    Raises:
        UserError: There is no such folder, or nothing of ours in it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give one that `privbench run` or `privbench sweep` wrote to")
    paths = {folder / name for plan in sorted(folder.glob("study--*.json")) for name in _planned(plan)}
    for name in (RECORD, FAILURE, CASE, WORK, CLAIM):
        found = (path.parent for path in folder.rglob(name))
        paths.update(path for path in found if MEMBERS not in path.relative_to(folder).parts)
    if not paths:
        raise UserError(f"there is no case in {folder}; give a folder that `privbench run` or `privbench sweep` wrote to")
    return [_standing(path) for path in sorted(paths)]


def _planned(plan: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads(plan.read_bytes())["folders"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"the plan {plan} is damaged; repeat the sweep, which writes it anew") from None


def _standing(path: Path) -> Standing:
    if (path / RECORD).exists():
        return Standing(path, CaseState.DONE)
    batches = len(list((path / WORK).glob("batch-*.json")))
    members = len(list((path / MEMBERS).glob(f"*/{RECORD}")))
    detail = f"{batches} batches finished" if batches else f"{members} attacks finished" if members else ""
    if is_locked(path):
        return Standing(path, CaseState.RUNNING, detail)
    if (path / FAILURE).exists():
        # A damaged one says nothing, and the next sweep tries the case again.
        with suppress(UserError):
            return Standing(path, CaseState.FAILED, FailedCase.load(path / FAILURE).reason)
    begun = (path / WORK).is_dir() or (path / MEMBERS).is_dir()
    return Standing(path, CaseState.BEGUN if begun else CaseState.WAITING, detail)


def find_case(text: str, folder: Path) -> Path:
    """The folder of a case.

    Args:
        text: A case's folder, or the first letters of its identity.
        folder: Where to look for an identity, subfolders included.

    Raises:
        UserError: None or several are meant.
    """
    if Path(text).is_dir():
        return Path(text)
    found = sorted(path for path in folder.rglob(f"*--{text}*") if path.is_dir() and MEMBERS not in path.parts)
    if not text or not found:
        raise UserError(f"no case '{text}' in {folder}; accepted: a case's folder, or the first letters of its hash")
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:3])
        raise UserError(f"'{text}' means {len(found)} cases in {folder} ({names}); give more letters of the hash")
    return found[0]
