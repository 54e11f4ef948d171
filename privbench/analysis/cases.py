"""Finished cases and utility reports as tables: the leaderboard's columns, and the fields by which figures select cases."""

from pathlib import Path
from typing import Any

import pandas as pd

from privbench.analysis.leaderboard import leaderboard_with_folders
from privbench.core import Case, ComponentSpec, Interval, Record, UserError, UtilityReport
from privbench.core.labels import attack_label, defense_label
from privbench.store.layout import RECORD, find_results

__all__ = ["case_table", "utility_table"]


def case_table(folder: Path) -> pd.DataFrame:
    """Every finished case below a folder, each once.

    Args:
        folder: Where to look, subfolders included.

    Returns:
        The leaderboard's columns with `folder`, and: `image_size`; `images`, the positions of the private images in their
        data set as text; `attack_label` and `defense_label`, what differs from the defaults; `attack_fields`, the attack's
        parameters by name; `defense_parts`, the composed defense with all parameters; `mask_ratio`, where the defense is MJP
        with the blocks that it draws by itself, and nothing else. Of a case that was computed in several places the first
        by path.

    Raises:
        UserError: As the leaderboard, or no case is finished.
    """
    rows = leaderboard_with_folders(folder)
    rows = rows[rows["failure"].isna()]
    if rows.empty:
        raise UserError(f"no case below {folder} is finished; see `privbench status {folder}`")
    rows = rows.sort_values("folder", kind="stable").drop_duplicates("case").reset_index(drop=True)
    fields = pd.DataFrame([_fields(Record.load(path / RECORD).case) for path in rows["folder"]])
    return pd.concat([rows, fields], axis=1)


def _fields(case: Case) -> dict[str, Any]:
    alone = case.defense[0] if len(case.defense) == 1 else None
    return {
        "image_size": case.victim.model.image_size,
        "images": ",".join(map(str, case.data.indices)),
        "attack_label": attack_label(case),
        "defense_label": defense_label(case),
        "attack_fields": dict(case.attack.parameters),
        "defense_parts": case.defense,
        "mask_ratio": _mask_ratio(alone),
    }


_OTHER_MASKS = {"smallest_block", "largest_block", "positions"}
"""Parameters of MJP that a mask does not have unless they were given."""


def _mask_ratio(defense: ComponentSpec | None) -> float | None:
    if defense is None or defense.name != "mjp" or _OTHER_MASKS & defense.parameters.keys():
        return None
    return defense.parameters.get("mask_ratio")


def utility_table(folder: Path) -> pd.DataFrame:
    """Accuracy and consistency of every utility report below a folder, one row per measure and mask ratio of MJP's jigsaw.

    Args:
        folder: Where to look, subfolders included.

    Returns:
        `victim` (the defense's names), `model`, `weights`, `dataset`, `measure` (`accuracy` or `consistency`), `mask_ratio`,
        `mean`, `low`, `high`, `n`. Accuracy at ratio 0 is that without a mask. Empty where nothing was evaluated.
    """
    rows = [
        row
        for path in find_results(folder)
        if path.name.startswith("utility--")
        for row in _utility_rows(UtilityReport.load(path))
    ]
    columns = ["victim", "model", "weights", "dataset", "measure", "mask_ratio", "mean", "low", "high", "n"]
    table = pd.DataFrame(rows, columns=columns)
    # The same victim is measured without a mask, and under its own, in each of its reports; of several, that of most images.
    table = table.sort_values("n", ascending=False, kind="stable")
    table = table.drop_duplicates(["victim", "model", "weights", "dataset", "measure", "mask_ratio"])
    return table.sort_values(["measure", "victim", "mask_ratio"], kind="stable", ignore_index=True)


def _utility_rows(utility: UtilityReport) -> list[dict[str, Any]]:
    from privbench.core import resolve_defense  # takes torch with it

    victim = {
        "victim": "+".join(part.name for part in utility.defense),
        "model": utility.victim.model.name,
        "weights": Path(utility.victim.weights).name,
        "dataset": Path(utility.dataset).name,
    }
    jigsaw = {part.name: part.parameters for part in resolve_defense(utility.jigsaw)}
    measured: list[tuple[str, float, Interval | None]] = [("accuracy", 0.0, utility.accuracy)]
    if jigsaw.keys() == {"mjp"}:
        ratio = float(jigsaw["mjp"]["mask_ratio"])
        measured += [("accuracy", ratio, utility.jigsaw_accuracy), ("consistency", ratio, utility.consistency)]
    if victim["victim"] == "mjp":
        measured.append(("accuracy", float(utility.defense[0].parameters["mask_ratio"]), utility.defended_accuracy))
    return [
        {**victim, "measure": name, "mask_ratio": ratio, **interval.model_dump()}
        for name, ratio, interval in measured
        if interval is not None
    ]
