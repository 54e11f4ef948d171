"""From the results of cases to pictures: the one place where runs and figures meet, for commands and notebooks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure

from privbench.analysis.cases import case_table, price_table
from privbench.analysis.tables import METRICS, caption, value_text
from privbench.core import METRICS as REGISTERED_METRICS
from privbench.core import Case, ImageResult, Record, UserError, build_defense, resolve_defense
from privbench.core.labels import defense_label
from privbench.models import DEFAULT_MODEL, load_state, load_victim, resolve_victim
from privbench.plots import (
    FRONT_SETTING,
    SETTING,
    ComparisonRow,
    DefenseColumn,
    GalleryRow,
    PositionTable,
    ablation_figure,
    ablation_points,
    architectures_figure,
    architectures_points,
    cases_figure,
    comparison_figure,
    defenses_figure,
    figure_bytes,
    figure_png,
    front_figure,
    front_points,
    leakage_map_figure,
    leakage_map_points,
    losses_figure,
    mask_ratio_figure,
    mask_ratio_points,
    metric_label,
    one_setting,
    position_points,
    positions_figure,
    settings_figure,
    settings_points,
    trajectories_figure,
    trajectories_points,
    variant_names,
)
from privbench.runner.pictures import Pixels, ShownCase, read_picture, shown_case
from privbench.scoring import BUILT_IN, registered_metric
from privbench.store.layout import RECORD, TRACE
from privbench.store.trace import mean_trace

__all__ = [
    "FigureRequest",
    "case_traces",
    "draw_case",
    "draw_defenses",
    "draw_figure",
    "draw_fronts",
    "draw_losses",
    "gallery_blocks",
    "position_tables",
    "where",
]


def draw_case(shown: ShownCase) -> bytes:
    """The comparison picture of one case, PNG."""
    rows = [
        ComparisonRow(result.image, original, fed, reconstruction, caption(result))
        for result, original, fed, reconstruction in zip(
            shown.results, shown.originals, shown.fed, shown.reconstructions, strict=True
        )
    ]
    return figure_png(comparison_figure(rows, title=f"{defense_label(shown.case)}: {_setting(shown.case)}"))


def draw_defenses(shown: Sequence[ShownCase], labels: Sequence[str]) -> bytes:
    """The comparison picture of several defenses on the same images, PNG."""
    columns = [
        DefenseColumn(label, case.fed, case.reconstructions, [caption(result) for result in case.results])
        for case, label in zip(shown, labels, strict=True)
    ]
    first = shown[0]
    names = [result.image for result in first.results]
    return figure_png(defenses_figure(names, first.originals, columns, title=_setting(first.case)))


def draw_losses(trace: pd.DataFrame) -> bytes:
    """The loss trace of one case, SVG."""
    return figure_bytes(losses_figure(trace), "svg")


def draw_fronts(rows: pd.DataFrame) -> list[tuple[str, bytes]]:
    """Privacy against accuracy, title and SVG, once for each setting of a leaderboard in which a price was measured."""
    drawings = []
    for _, group in rows.groupby(list(FRONT_SETTING), sort=True):
        if group[["price_accuracy", "retrained_accuracy"]].notna().any(axis=None):
            points = front_points(group, metric="psnr", higher_is_leakier=True)
            figure = front_figure(points, label=METRICS["psnr"], higher_is_leakier=True)
            one = group.iloc[0]
            title = f"{one['model']}, {one['dataset']} {one['split']}, batch {one['batch_size']}, labels {one['labels']}"
            drawings.append((title, figure_bytes(figure, "svg")))
    return drawings


def _setting(case: Case) -> str:
    return f"{case.attack.name}, {case.threat_model.adversary} adversary, {case.victim.model.name}"


# Figures of a folder


@dataclass(frozen=True)
class FigureRequest:
    """What a user asks of `privbench figure`.

    Attributes:
        folder: Where the records lie; None only for a figure that needs none.
        metric: Leakage metric.
        where: `COLUMN=VALUE` each.
        images: How many images of each case a gallery shows.
        weights: Files of further victims.
    """

    folder: Path | None
    metric: str = "psnr"
    where: tuple[str, ...] = ()
    images: int = 4
    weights: tuple[Path, ...] = ()

    @property
    def records(self) -> Path:
        """The folder.

        Raises:
            UserError: There is none.
        """
        if self.folder is None:
            raise UserError("this figure is made from records; give the folder where they lie, such as results/reference")
        return self.folder

    def rows(self) -> pd.DataFrame:
        """The cases that are asked for.

        Raises:
            UserError: The folder, a column or a value is not there.
        """
        return where(case_table(self.records), *self.where)


def draw_figure(name: str, request: FigureRequest) -> tuple[Figure, list[str]]:
    """Draws a figure by its name.

    Args:
        name: One of `FIGURES`.
        request: From what.

    Returns:
        The figure and what the user should know of it, one line each.

    Raises:
        UserError: The folder has nothing for it; the line says what is needed.
    """
    return _DRAWN[name](request)


def where(rows: pd.DataFrame, *conditions: str) -> pd.DataFrame:
    """The cases that meet all conditions, each `COLUMN=VALUE`.

    Raises:
        UserError: A column is not there, or no case is left.
    """
    for condition in conditions:
        column, equals, value = condition.partition("=")
        if not equals or column not in rows:
            accepted = ", ".join(str(name) for name in rows if name in _CONDITIONS)
            raise UserError(f"'{condition}' chooses nothing; accepted: COLUMN=VALUE with a column of {accepted}")
        known = sorted(rows[column].astype(str).unique())
        rows = rows[rows[column].astype(str) == value]
        if rows.empty:
            raise UserError(f"no record has {column} '{value}'; accepted: {', '.join(known)}")
    return rows


_CONDITIONS = (*SETTING, "attack", "attack_label", "defense", "defense_label", "adversary", "case", "version", "device")


def case_traces(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The loss traces of the variants of one attack without defense, in the one setting where most variants have one.

    Args:
        rows: A table of cases.

    Returns:
        The attack with what differs from its defaults, to its trace.
    """
    traces = {path: mean_trace(path / TRACE) for path in rows["folder"] if (path / TRACE).exists()}
    traced = rows[[path in traces and len(traces[path]) > 1 for path in rows["folder"]]]
    traced = traced[traced["defense"] == "none"]
    chosen = one_setting(traced, [*SETTING, "adversary", "attack"], differ_in="attack_params")
    chosen = chosen.drop_duplicates("attack_params")
    names = list(chosen["attack_label"])
    if set(chosen["attack"]) == {"gradvit"}:
        order, names, _ = variant_names(list(chosen["attack_fields"]))
        # The whole attack first, the control last.
        chosen, names = chosen.iloc[order[::-1]], names[::-1]
    return {name: traces[path] for name, path in zip(names, chosen["folder"], strict=True)}


def gallery_blocks(rows: pd.DataFrame, *, images: int = 4) -> tuple[list[list[GalleryRow]], list[str]]:
    """A gallery of all cases of the one setting with most of them: originals, then each defense with its attacks.

    Args:
        rows: A table of cases; those whose reconstructions are not kept beside the record are passed over.
        images: The first so many images of each case.

    Returns:
        Rows in blocks, the originals first, and notes: the private images are not stored, and where their data set is not
        at hand their places are empty.

    Raises:
        UserError: No case has its reconstructions.
    """
    records = {path: Record.load(path / RECORD) for path in rows["folder"]}
    kept = [
        all(image.reconstruction is None or (path / image.reconstruction).exists() for image in records[path].images)
        for path in rows["folder"]
    ]
    chosen = one_setting(rows[kept], SETTING, differ_in="case")
    if chosen.empty:
        raise UserError(
            "no record has its reconstructions beside it; `privbench run --defense none,mjp` keeps them in its cases' folders"
        )
    chosen = chosen.assign(plain=chosen["defense"] != "none", adversary_order=chosen["adversary"].map(_ADVERSARIES.index))
    chosen = chosen.sort_values(["plain", "defense_label", "attack_label", "adversary_order"], kind="stable")
    blocks: list[list[GalleryRow]] = []
    notes: list[str] = []
    originals: tuple[Pixels | None, ...] = ()
    for label, group in chosen.groupby("defense_label", sort=False):
        first = group["folder"].iloc[0]
        try:
            shown = shown_case(records[first], folder=first, device=torch.device("cpu"))
            fed: tuple[Pixels | None, ...] = shown.fed[:images]
            originals = originals or shown.originals[:images]
        except UserError as error:
            fed = (None,) * min(images, len(records[first].images))
            if not notes:
                notes.append(f"originals and client's views are left out: {error}")
        block = [GalleryRow(f"{label}\nclient's view", fed, absent="data not\nat hand")]
        block += [_attacked(row, records[row["folder"]].images[:images]) for _, row in group.iterrows()]
        blocks.append(block)
    count = len(blocks[0][0].images)
    return [[GalleryRow("original", originals or (None,) * count, absent="data not\nat hand")], *blocks], notes


_ADVERSARIES = ("unaware", "aware", "oracle")


def _attacked(row: pd.Series, images: Sequence[ImageResult]) -> GalleryRow:
    pictures = [
        None if image.reconstruction is None else read_picture(row["folder"] / image.reconstruction) for image in images
    ]
    name, _, changed = str(row["attack_label"]).partition(":")
    label = "\n".join([name, *([_control_or(changed)] if changed else []), str(row["adversary"])])
    return GalleryRow(label, pictures, [f"{value_text('psnr', image.scores.get('psnr'))} dB" for image in images])


def _control_or(changed: str) -> str:
    """What differs from the defaults, short enough for a label."""
    if "gradient=0.0" in changed.split(","):
        return "no gradient"
    return changed if len(changed) <= 24 else f"{changed[:23]}…"


def position_tables(*weights: Path) -> list[PositionTable]:
    """The position rows of the embedded victims that have any, then those of weights files.

    Raises:
        UserError: A file cannot be read, or has no learned position embedding.
    """
    tables = []
    for name in ("none", "mjp"):
        defense = build_defense(resolve_defense(name))
        spec = resolve_victim(DEFAULT_MODEL, "embedded", defense)
        state = load_victim(spec, defense, generator=torch.Generator().manual_seed(0)).state_dict()
        tables.append(PositionTable.of_state(f"{name} (embedded)", state))
    return [*tables, *(PositionTable.of_state(path.stem, load_state(path)) for path in weights)]


_Drawn = tuple[Figure, list[str]]


def _gallery(request: FigureRequest) -> _Drawn:
    blocks, notes = gallery_blocks(request.rows(), images=request.images)
    return cases_figure(blocks, title="PSNR of each image under its reconstruction"), notes


def _trajectories(request: FigureRequest) -> _Drawn:
    points = trajectories_points(case_traces(request.rows()))
    notes = [] if "psnr" in set(points["quantity"]) else ["no PSNR: these traces hold losses alone"]
    return trajectories_figure(points), notes


def _ablation(request: FigureRequest) -> _Drawn:
    return ablation_figure(ablation_points(request.rows(), metric=request.metric), metric=request.metric), []


def _mask_ratio(request: FigureRequest) -> _Drawn:
    rows = request.rows()
    invariant = f"{request.metric}_patch"
    if invariant not in {*BUILT_IN, *REGISTERED_METRICS.names()}:
        invariant = "psnr_patch"
    points = mask_ratio_points(rows, metric=request.metric)
    assigned = mask_ratio_points(rows, metric=invariant)
    prices = price_table(request.records)
    notes = [f"no price file below {request.records}: `privbench evaluate --defense mjp`"] if prices.empty else []
    return mask_ratio_figure(points, assigned, prices, metric=request.metric, invariant_metric=invariant), notes


def _front(request: FigureRequest) -> _Drawn:
    described = registered_metric(request.metric)
    rows = one_setting(request.rows(), [*FRONT_SETTING, "images"], differ_in="defense_label")
    points = front_points(rows, metric=request.metric, higher_is_leakier=described.higher_is_leakier)
    unpriced = sorted(set(points.loc[points["source"] == "card", "defense"]))
    left_out = sorted(set(rows["defense"]) - set(points["defense"]))
    away = int(points["recovered"].sum())
    notes = [f"{len(points)} points, {int(points['on_front'].sum())} on the front, {away} give the image away"]
    if unpriced:
        notes.append(
            f"accuracy of {', '.join(unpriced)} is from the victim's card; `privbench evaluate` measures it under the defense"
        )
    if left_out:
        notes.append(f"left out, no victim was trained under them beside an undefended one: {', '.join(left_out)}")
    label = metric_label(request.metric).partition(" (")[0]
    return front_figure(points, label=label, higher_is_leakier=described.higher_is_leakier), notes


def _positions(request: FigureRequest) -> _Drawn:
    tables = position_tables(*request.weights)
    points = position_points(tables)
    notes = [
        f"{name}: error {mean:.3f} patches [{low:.3f}, {high:.3f}]"
        for name, mean, low, high in points[["name", "mean", "low", "high"]].itertuples(index=False)
    ]
    return positions_figure(tables, points), notes


def _settings(request: FigureRequest) -> _Drawn:
    return settings_figure(settings_points(request.rows(), metric=request.metric), metric=request.metric), []


def _leakage_map(request: FigureRequest) -> _Drawn:
    return leakage_map_figure(leakage_map_points(request.rows(), metric=request.metric), metric=request.metric), []


def _architectures(request: FigureRequest) -> _Drawn:
    return architectures_figure(architectures_points(request.rows(), metric=request.metric), metric=request.metric), []


_DRAWN: Mapping[str, Callable[[FigureRequest], _Drawn]] = {
    "gallery": _gallery,
    "trajectories": _trajectories,
    "ablation": _ablation,
    "mask-ratio": _mask_ratio,
    "front": _front,
    "positions": _positions,
    "settings": _settings,
    "leakage-map": _leakage_map,
    "architectures": _architectures,
}
