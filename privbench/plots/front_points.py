"""The points of the privacy-utility front: what each defense leaves to its strongest attacker, against what it costs."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from privbench.analysis.flags import is_lower_bound
from privbench.core import Ensemble, UserError
from privbench.core.flags import LOWER_BOUND
from privbench.plots.strengths import by_strength

__all__ = ["ENOUGH", "FRONT_SETTING", "RECOVERED", "front_points", "share_interval"]

FRONT_SETTING = ("model", "dataset", "split", "batch_size", "labels", "model_mode", "local", "trains", "server")
"""Columns of the leaderboard in which the rows of one front are alike."""

RECOVERED = Ensemble.recovered
"""PSNR in dB from which an image counts as recovered, for an ensemble and here."""
_ADDED = "defense-added-after-training"
"""Flag of a victim that its card does not describe."""
ENOUGH = 0.9
"""Share of the reference victim's accuracy that an undefended victim of a recipe must reach, or the recipe counts as short."""


def share_interval(accuracy: ArrayLike, undefended: ArrayLike, n: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 95 % interval of one accuracy as a share of another, both measured on n images.

    By the delta method on the logarithm of the ratio, of two independent binomials: stored reports hold no answer of a single
    image, so that nothing can be paired. Victims that are right on the same images would have a narrower one.

    Returns:
        Low and high, NaN where one of the accuracies is zero.
    """
    over, under, count = (np.asarray(value, dtype=float) for value in (accuracy, undefended, n))
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt((1 - over) / (count * over) + (1 - under) / (count * under))
        ratio, factor = over / under, np.exp(1.959964 * np.where(np.isfinite(error), error, np.nan))
        return ratio / factor, ratio * factor


def front_points(rows: pd.DataFrame, *, metric: str, higher_is_leakier: bool) -> pd.DataFrame:
    """One point per defense and setting: its leakiest row over all attacks and adversaries.

    Args:
        rows: A leaderboard.
        metric: Name of the leakage metric.
        higher_is_leakier: Its direction.

    Returns:
        By defense and strength: the columns of the setting, `defense`, `defense_params`, `parameter` and `strength` (that in
        which the rows of a defense differ, and its value; else its first number), `attack`, `adversary`, `leakage`, `low`,
        `high`, `n`, `recovered` (by PSNR, after the best rearrangement of patches for a metric that allows it, the image is
        back), `accuracy`, `accuracy_low`, `accuracy_high`, `accuracy_n` (NaN where unknown), `seeds`, `seed_low`, `seed_high`
        (training runs and the accuracy's interval over them, NaN where they are not several), `source`, `kind`, and `on_front`:
        no other point is at least as accurate and less leaky. Where any row has the accuracy of a victim that was trained under
        its defense by a recipe that an undefended one shares, the accuracy is that share of the undefended victim's, so that
        several recipes stand on one axis, with an interval of the share, and rows without it are left out (`retrained`); `kind`
        names the recipe, and `is_short` says that an undefended victim of that recipe has less than 90 % of the
        accuracy of the undefended victim that is attacked. Else it is what was measured of the attacked victim (`utility`), the
        same under all defenses that it is attacked under, or else that of its card (`card`).

        Rows that are a lower bound, because their attacker could not undo what the client did to its images, are left out.

    Raises:
        UserError: The metric is not there, rows do not compare, no row has an accuracy, or all are lower bounds.
    """
    rows = _without_lower_bounds(rows)
    columns = {f"{metric}_mean": "leakage", f"{metric}_ci_low": "low", f"{metric}_ci_high": "high"}
    if f"{metric}_mean" not in rows:
        known = [name.removesuffix("_mean") for name in map(str, rows) if name.endswith("_mean")]
        raise UserError(f"the leaderboard has no metric '{metric}'; accepted: {', '.join(known)}")
    for column in FRONT_SETTING:
        values = sorted(map(str, rows[column].unique()))
        if len(values) > 1:
            raise UserError(f"rows of different {column} do not compare ({', '.join(values)}); give a folder with one of them")
    aligned = "psnr_patch_mean" if metric.endswith("_patch") else "psnr_mean"
    psnr = pd.to_numeric(rows[aligned]) if aligned in rows else pd.Series(np.nan, index=rows.index)
    points = rows.drop(columns="accuracy").assign(
        defense_params=rows["defense_params"].fillna(""),
        leakage=rows[f"{metric}_mean"],
        low=rows[f"{metric}_ci_low"],
        high=rows[f"{metric}_ci_high"],
        n=rows["n_images"],
        psnr=psnr,
        **(_shares(rows) if rows["retrained_accuracy"].notna().any() else _measured(rows)),
    )
    points = points.dropna(subset=["leakage", "accuracy"])
    if points.empty:
        raise UserError("no row has an accuracy; measure it with `privbench evaluate --defense SPEC`, into the same folder")
    setting = ["defense", "defense_params"]
    points["recovered"] = points.groupby(setting)["psnr"].transform("max") >= RECOVERED
    points = points.sort_values("leakage", ascending=not higher_is_leakier, kind="stable").drop_duplicates(setting)
    leakage = points["leakage"].to_numpy() * (1 if higher_is_leakier else -1)
    accuracy = points["accuracy"].to_numpy()
    points["on_front"] = [
        not bool(np.any((accuracy >= a) & (leakage <= own) & ((accuracy > a) | (leakage < own))))
        for a, own in zip(accuracy, leakage, strict=True)
    ]
    every = rows["defense_params"].fillna("").groupby(rows["defense"]).unique()
    parts = [by_strength(group, list(every[name])) for name, group in points.groupby("defense", sort=True)]
    points = pd.concat(parts, ignore_index=True)
    named = [*setting, "parameter", "strength", "attack", "adversary", *columns.values(), "n", "recovered"]
    accuracies = ["accuracy", "accuracy_low", "accuracy_high", "accuracy_n", "seeds", "seed_low", "seed_high"]
    accuracies += ["source", "kind", "is_short"]
    return points[[*FRONT_SETTING, *named, *accuracies, "on_front"]]


def _without_lower_bounds(rows: pd.DataFrame) -> pd.DataFrame:
    kept = ~rows["flags"].fillna("").str.split().map(is_lower_bound)
    if not kept.any():
        raise UserError(
            f"every row is a lower bound (flag {LOWER_BOUND}): its attacker could not undo what the client did to its images; "
            "run the defense with --adversary oracle, or give it the hook undo"
        )
    return rows[kept]


def _shares(rows: pd.DataFrame) -> dict[str, Any]:
    """Accuracy as a share of that of the undefended victim of the same recipe; the undefended one's own is 1 by definition."""
    names = ("accuracy", "undefended", "images", "epochs", "seeds", "share_seed_low", "share_seed_high")
    accuracy, undefended, n, epochs, seeds, seed_low, seed_high = (
        pd.to_numeric(rows[f"retrained_{name}"]).astype(float) for name in names
    )
    low, high = share_interval(accuracy, undefended, n)
    itself = (rows["defense"] == "none") & accuracy.notna()
    reference = pd.to_numeric(rows["accuracy"]).astype(float).max()
    return {
        "accuracy": accuracy / undefended,
        "accuracy_low": np.where(itself, 1.0, low),
        "accuracy_high": np.where(itself, 1.0, high),
        "accuracy_n": n,
        "seeds": seeds,
        "seed_low": seed_low,
        "seed_high": seed_high,
        "source": "retrained",
        "kind": [f"trained for {count:g} epoch{'s' if count != 1 else ''}" for count in epochs],
        "is_short": undefended < ENOUGH * reference,
    }


def _measured(rows: pd.DataFrame) -> dict[str, Any]:
    """Accuracy of the attacked victim: measured under any of the defenses that it is attacked under, or else of its card.

    What was measured for the same weights, of most images, stands for all rows of one card; a victim to which the defense was
    added has none but its own.
    """
    utility = {name: pd.to_numeric(rows[f"utility_{name}"]).astype(float) for name in ("accuracy", "images")}
    names = {"accuracy": "utility_accuracy", "accuracy_low": "utility_accuracy_low", "accuracy_high": "utility_accuracy_high"}
    found = pd.DataFrame({new: pd.to_numeric(rows[old]).astype(float) for new, old in names.items()}, index=rows.index)
    found["accuracy_n"] = utility["images"]
    card = pd.to_numeric(rows["accuracy"]).astype(float)
    shared = card.notna() & ~rows["flags"].fillna("").str.split().map(lambda flags: _ADDED in flags)
    for _, victim in rows[shared].groupby([rows["weights"], card]):
        counts = utility["images"][victim.index][utility["accuracy"][victim.index].notna()]
        if not counts.empty:
            found.loc[victim.index] = found.loc[counts.index[[int(counts.argmax())]]].to_numpy()
    source = np.where(found["accuracy"].notna(), "utility", "card")
    found["accuracy"] = found["accuracy"].fillna(card)
    kinds = {"utility": "accuracy measured", "card": "accuracy of the victim's card"}
    return {
        **{str(name): found[name] for name in found},
        **dict.fromkeys(("seeds", "seed_low", "seed_high"), np.nan),
        "source": source,
        "kind": [kinds[name] for name in source],
        "is_short": False,
    }
