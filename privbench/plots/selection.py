"""What a figure takes from a table of cases: rows that compare, and one metric of them with its interval."""

from collections.abc import Sequence

import pandas as pd

from privbench.core import UserError
from privbench.core.labels import update_words

__all__ = ["SETTING", "measured", "one_setting", "setting_text"]

SETTING = (
    "model",
    "image_size",
    "weights",
    "dataset",
    "split",
    "images",
    "batch_size",
    "labels",
    "model_mode",
    "local",
    "trains",
    "server",
    "lpips_net",
    "seed",
)
"""Columns in which two cases are alike whose scores are compared, unless a figure is about one of them."""


def measured(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows that have a metric, with the columns `mean`, `low`, `high` and `n` of it.

    Raises:
        UserError: No row has it.
    """
    names = [f"{metric}_{ending}" for ending in ("mean", "ci_low", "ci_high")]
    found = rows.dropna(subset=names) if set(names) <= set(rows) else rows.iloc[:0]
    if found.empty:
        known = sorted(
            str(name).removesuffix("_mean") for name in rows if str(name).endswith("_mean") and rows[name].notna().any()
        )
        raise UserError(f"no case has the metric '{metric}'; accepted: {', '.join(known) or 'none, there is no such case'}")
    columns = dict(zip(names, ("mean", "low", "high"), strict=True))
    return found.assign(**{new: found[old].astype(float) for old, new in columns.items()}, n=found["n_images"].astype(int))


def one_setting(rows: pd.DataFrame, setting: Sequence[str], *, differ_in: str) -> pd.DataFrame:
    """The rows of one setting: of all, the one with most values of what differs, then most images, then the first by name.

    Args:
        rows: Cases.
        setting: Columns in which they are to be alike.
        differ_in: The column that a figure compares.

    Returns:
        As given, fewer rows; empty where there are none.
    """
    if rows.empty:
        return rows
    groups = [(name, group) for name, group in rows.groupby(list(setting), dropna=False, sort=True)]
    best = max(groups, key=lambda pair: (pair[1][differ_in].nunique(), pair[1]["n_images"].max()))
    return best[1]


def setting_text(rows: pd.DataFrame) -> str:
    """Model, images and update of rows in one line, for a figure's title; what differs among them is left out."""
    words = []
    for column, form in (("model", "{}"), ("weights", "{} weights"), ("dataset", "{}"), ("batch_size", "batch {}")):
        values = rows[column].unique()
        if len(values) == 1:
            words.append(form.format(values[0]))
    update = (rows[column].unique() for column in ("local", "trains", "server"))
    words += update_words(*(values[0] if len(values) == 1 else "" for values in update))
    low, high = int(rows["n"].min()), int(rows["n"].max())
    return ", ".join([*words, f"n = {low}" if low == high else f"n = {low} to {high}"])
