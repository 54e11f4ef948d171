"""The ablation of a matching attack: what each term, the schedule, the adjoint and relocation bring, without a defense."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from privbench.core import UserError
from privbench.drawing.dots import draw_dots
from privbench.drawing.style import PAPER, Paper, add_caption, metric_label, styled
from privbench.plots.request import Drawn, FigureRequest
from privbench.plots.selection import SETTING, measured, one_setting, setting_text

__all__ = ["ABLATED", "ablation_figure", "ablation_points", "objective_terms", "variant_names"]

_SWITCHES: Mapping[str, tuple[str, ...]] = {
    "total variation": ("total_variation", "total_variation_end"),
    "norm": ("squared_norm",),
    "BN prior": ("bn_prior",),
    "patch prior": ("patch_prior",),
    "registration": ("registration", "trials"),
    "position rows": ("position_matching", "position_error"),
    "observed residual": ("residual",),
    "first block only": ("layers",),
    "free adjoint": ("adjoint", "adjoint_rate"),
    "pyramid": ("parametrisation", "fine_rate"),
    "chroma": ("chroma",),
    "schedule": ("schedule",),
    "relocation": ("relocation", "relocation_every", "relocation_until"),
}
"""What can be on or off, and the parameters that say so or matter only then; an attack has some of them."""

ABLATED = ("adjoint-matching", "gradvit", "relocation-matching")

_CONTROL = "control: priors, no gradient"


def objective_terms(parameters: Mapping[str, Any]) -> frozenset[str]:
    """Which terms and moves are on.

    Args:
        parameters: All of the attack's, as a record has them.

    Returns:
        Names such as `BN prior`; registration is on only where several trials have a consensus.
    """

    def weighs(*names: str) -> bool:
        return any(parameters.get(name, 0) > 0 for name in names)

    on = {
        "total variation": weighs("total_variation", "total_variation_end", "extra"),
        "norm": weighs("squared_norm", "extra"),
        "BN prior": weighs("bn_prior"),
        "patch prior": weighs("patch_prior"),
        "registration": weighs("registration") and parameters["trials"] > 1,
        "position rows": weighs("position_matching", "position_error"),
        "observed residual": parameters.get("residual") == "observed",
        "first block only": parameters.get("layers") == "first-block",
        "free adjoint": parameters.get("adjoint") == "free",
        "pyramid": parameters.get("parametrisation") == "pyramid",
        "chroma": weighs("chroma"),
        "schedule": parameters.get("schedule", "constant") != "constant",
        "relocation": bool(parameters.get("relocation")),
    }
    return frozenset(name for name, value in on.items() if value)


def ablation_points(rows: pd.DataFrame, *, metric: str = "psnr") -> pd.DataFrame:
    """One point per variant of the attack, in the one setting, matched gradients included, where most variants were measured.

    Args:
        rows: A table of cases.
        metric: Name of the leakage metric.

    Returns:
        `name`, `mean`, `low`, `high`, `n` and the columns of the setting, fewest terms first. Of three or more nested variants
        each name says what is added to the one before; the others follow, with what is missing of the fullest. Parameters
        that differ otherwise are written out. The control without a gradient comes first.

    Raises:
        UserError: Fewer than two variants, or none has the metric.
    """
    chosen = rows[rows["attack"].isin(ABLATED) & (rows["defense"] == "none")]
    if not chosen.empty:
        chosen = measured(chosen, metric)
        # Which gradients are matched is the question of the leakage map, whose records may lie beside these.
        chosen = chosen.assign(layers=[fields.get("layers", "") for fields in chosen["attack_fields"]])
        chosen = one_setting(chosen, [*SETTING, "adversary", "attack", "layers"], differ_in="attack_params")
        chosen = chosen.drop_duplicates("attack_params")
    if len(chosen) < 2:
        raise UserError(
            "an ablation needs at least two records of adjoint-matching without defense that differ in attack parameters "
            "alone; make one more with `privbench run --defense none --set attack.chroma=0`, on the images of the first"
        )
    order, names, common = variant_names(list(chosen["attack_fields"]))
    return chosen.iloc[order].reset_index(drop=True).assign(name=names, common=common)


def variant_names(fields: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[str], str]:
    """What variants of an attack are called beside each other.

    Args:
        fields: The parameters of each, all different.

    Returns:
        Their order, the control without a gradient first and then the fewest terms; their names in that order; and, where
        there are three or more of which each has the terms of the one before, what all variants have, else nothing. Those
        three or more come before the others.
    """
    terms = [objective_terms(parameters) for parameters in fields]
    order = sorted(range(len(fields)), key=lambda place: (len(terms[place]), str(fields[place])))
    controls = [place for place in order if fields[place]["gradient"] == 0]
    attacking = [place for place in order if place not in controls]
    if not attacking:
        controls, attacking = [], order
    common = frozenset.intersection(*(terms[place] for place in attacking))
    reference = attacking[-1]
    changes = {place: _other_changes(fields[place], fields[reference], terms[place] ^ terms[reference]) for place in attacking}
    ladder = _ladder(attacking, terms, changes)
    names = {}
    for number, place in enumerate(ladder):
        added = _in_order(terms[place] - (terms[ladder[number - 1]] if number else common))
        words = [f"+ {name}" for name in added]
        names[place] = " ".join(words if number else ["gradient" if common or added else "gradient only", *words])
    beside = [place for place in attacking if place not in names]
    for place in beside:
        kinds = {"without": terms[reference] - terms[place], "with": terms[place] - terms[reference]}
        words = [f"{kind} {', '.join(_in_order(names_of))}" for kind, names_of in kinds.items() if names_of]
        names[place] = ", ".join(words) or "all terms"
    # Two variants may have the same terms in another strength.
    names = {place: f"{name} ({changes[place]})" if changes[place] else name for place, name in names.items()}
    for place in controls:
        others = _other_changes(fields[place], fields[controls[0]], frozenset())
        names[place] = f"{_CONTROL} ({others})" if others else _CONTROL
    order = [*controls, *ladder, *beside]
    return order, [names[place] for place in order], ", ".join(_in_order(common)) if ladder else ""


def _ladder(places: Sequence[int], terms: Sequence[frozenset[str]], changes: Mapping[int, str]) -> list[int]:
    """The longest row of variants of which each has all terms of the one before and more, up to the last place.

    Of equally long ones that with the fewest other changes; nothing where it would have fewer than three variants.
    """
    best: dict[int, list[int]] = {}
    for place in places:
        below = [best[other] for other in best if terms[other] < terms[place]]
        rows = [[*row, place] for row in below] or [[place]]
        best[place] = max(rows, key=lambda row: (len(row), -sum(bool(changes[one]) for one in row)))
    return best[places[-1]] if len(best[places[-1]]) > 2 else []


def _in_order(names: frozenset[str]) -> list[str]:
    return [name for name in _SWITCHES if name in names]


def _other_changes(parameters: Mapping[str, Any], reference: Mapping[str, Any], switched: frozenset[str]) -> str:
    explained = {key for name in switched for key in _SWITCHES[name]}
    changed = [key for key in parameters if key not in explained and parameters[key] != reference.get(key)]
    return ", ".join(f"{key}={parameters[key]}" for key in changed)


def ablation_figure(points: pd.DataFrame, *, metric: str = "psnr", paper: Paper = PAPER) -> Figure:
    """Draws what `ablation_points` found, one row per variant."""
    common = points["common"].iloc[0]
    caption = f"{points['attack'].iloc[0]} without a defense, {setting_text(points)}. Bars: 95 % intervals."
    names = [fill(name, 24 if paper.is_single else 44) for name in points["name"]]
    with styled(paper):
        lines = max(name.count("\n") + 1 for name in names)
        figure = Figure(figsize=(paper.width, 0.9 + (0.05 + 0.105 * max(lines, 2)) * len(points)), layout="constrained")
        axes = figure.add_subplot()
        draw_dots(axes, points.assign(name=names), names=names)
        axes.set_xlabel(metric_label(metric))
        add_caption(figure, caption + (f" In all: {common}." if common else ""), paper)
    return figure


def draw(request: FigureRequest) -> Drawn:
    """The variants of an attack that are asked for."""
    points = ablation_points(request.cases(), metric=request.metric)
    return Drawn(ablation_figure(points, metric=request.metric, paper=request.paper))
