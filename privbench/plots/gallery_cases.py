"""Which cases and images a gallery shows: of one setting, by the columns and the images that are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

import pandas as pd
import torch

from privbench.analysis.score_text import value_text
from privbench.core import ADVERSARIES, ImageResult, Record, UserError
from privbench.drawing.image_grid import Pixels
from privbench.plots.selection import SETTING, one_setting, setting_text
from privbench.runner.pictures import SHOWN_IMAGES, read_picture, shown_case
from privbench.store.layout import RECORD

__all__ = ["GalleryBlock", "GalleryCases", "GalleryRow", "gallery_cases"]

_ROWS = ("defense", "attack", "adversary")
_LABELS = {"defense": "defense_label", "attack": "attack_label"}
"""What tells rows apart that differ in the parameters of a defense or an attack."""
_RANKS = ("best", "median", "worst")
_LETTERS = 19
"""Of a line of a row's label."""


@dataclass(frozen=True)
class GalleryRow:
    """One row: the same images throughout, in the same order.

    Attributes:
        label: What the row shows, up to three lines.
        images: One entry per image; None where the attack failed.
        captions: A line under each image, or nothing at all.
        leakage: Mean PSNR of an attack's row; None of originals and client's views.
    """

    label: str
    images: Sequence[Pixels | None]
    captions: Sequence[str] = ()
    leakage: float | None = None


@dataclass(frozen=True)
class GalleryBlock:
    """Rows that stay together: the originals, or a defense's.

    Attributes:
        name: The defense; nothing for the originals.
        rows: At least one.
    """

    name: str
    rows: tuple[GalleryRow, ...]

    @property
    def is_attacked(self) -> bool:
        """Whether it is a defense's."""
        return bool(self.name)


@dataclass(frozen=True)
class GalleryCases:
    """What a gallery shows.

    Attributes:
        blocks: The originals first, where the data is at hand.
        caption: Setting, and which images.
        notes: What is left out and why.
    """

    blocks: tuple[GalleryBlock, ...]
    caption: str
    notes: tuple[str, ...] = field(default=())


def gallery_cases(
    rows: pd.DataFrame, *, images: str = "4", rows_by: Sequence[str] = (), data: Path | None = None
) -> GalleryCases:
    """A gallery of the cases of the one setting with most of them: originals, then each defense with its attacks.

    Args:
        rows: A table of cases; those whose reconstructions are not kept beside the record are passed over.
        images: The first so many images of each case, or some of `best`, `median`, `worst`, by their mean PSNR over the rows.
        rows_by: Columns of which each combination is one row, that of the highest leakage; nothing: every case is one.
        data: Where the private images lie, if not where the records say.

    Raises:
        UserError: No case has its reconstructions, or a column or choice of images is unknown.
    """
    records = {path: Record.load(path / RECORD) for path in rows["folder"]}
    kept = [
        all(image.reconstruction is None or (path / image.reconstruction).exists() for image in records[path].images)
        for path in rows["folder"]
    ]
    chosen = _one_each(one_setting(rows[kept], SETTING, differ_in="case"), rows_by)
    if chosen.empty:
        raise UserError(
            "no record has its reconstructions beside it; `privbench run --defense none,mjp` keeps them in its cases' folders"
        )
    chosen = chosen.assign(plain=chosen["defense"] != "none", adversary_order=chosen["adversary"].map(ADVERSARIES.index))
    chosen = chosen.sort_values(["plain", "defense_label", "attack_label", "adversary_order"], kind="stable")
    places, which = _places(images, [records[path].images for path in chosen["folder"]])
    blocks: list[GalleryBlock] = []
    notes: list[str] = []
    originals: tuple[Pixels, ...] = ()
    for label, group in chosen.groupby("defense_label", sort=False):
        first = group["folder"].iloc[0]
        found = [_attacked(row, [records[row["folder"]].images[place] for place in places]) for _, row in group.iterrows()]
        try:
            shown = shown_case(_at(records[first], data), folder=first, device=torch.device("cpu"))
            fed = tuple(shown.fed[place] for place in places)
            originals = originals or tuple(shown.originals[place] for place in places)
            found.insert(0, GalleryRow(f"{_wrapped(str(label))}\nclient's view", fed))
        except UserError as error:
            if not notes:
                notes.append(f"originals and client's views are left out: {error}; --data says where the images are")
            found = [replace(row, label=f"{_wrapped(str(label))}\n{row.label}") for row in found]
        blocks.append(GalleryBlock(str(label), tuple(found)))
    if originals:
        blocks.insert(0, GalleryBlock("", (GalleryRow("original", originals),)))
    setting = setting_text(chosen.assign(n=chosen["n_images"]))
    caption = f"Reconstructions with their PSNR, {setting}; {which}."
    return GalleryCases(tuple(blocks), caption, tuple(notes))


def _one_each(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Of each combination of the columns the row that leaks most."""
    if not columns or rows.empty:
        return rows
    unknown = [name for name in columns if name not in rows or name == "folder"]
    if unknown:
        accepted = ", ".join([*_ROWS, "defense_label", "attack_label"])
        raise UserError(f"no column '{unknown[0]}' to choose rows by; accepted: {accepted} or a column of the leaderboard")
    ordered = rows.sort_values("psnr_mean", ascending=False, kind="stable")
    return ordered.drop_duplicates(list(columns))


def _places(images: str, results: Sequence[Sequence[ImageResult]]) -> tuple[list[int], str]:
    """Positions of the images within each case, and the words for the choice."""
    count = min(SHOWN_IMAGES, *map(len, results))
    words = [word.strip() for word in images.split(",")]
    if len(words) == 1 and words[0].isdecimal() and int(words[0]) > 0:
        shown = min(int(words[0]), count)
        return list(range(shown)), f"the first {shown} of {count} images"
    if not set(words) <= set(_RANKS):
        raise UserError(
            f"'{images}' chooses no images; accepted: a number, or of {', '.join(_RANKS)}, such as best,median,worst"
        )
    means = [fmean(result[place].scores.get("psnr") or 0.0 for result in results) for place in range(count)]
    order = sorted(range(count), key=lambda place: -means[place])
    at = {"best": order[0], "median": order[count // 2], "worst": order[-1]}
    chosen = " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    return [at[word] for word in words], f"the {chosen} reconstructed of {count} images, by mean PSNR over these rows"


def _at(record: Record, data: Path | None) -> Record:
    """The record with its private images at another place; their content is checked there."""
    if data is None:
        return record
    case = record.case
    return record.model_copy(
        update={"case": case.model_copy(update={"data": case.data.model_copy(update={"source": str(data)})})}
    )


def _attacked(row: pd.Series, images: Sequence[ImageResult]) -> GalleryRow:
    pictures = [
        None if image.reconstruction is None else read_picture(row["folder"] / image.reconstruction) for image in images
    ]
    name, _, changed = str(row["attack_label"]).partition(":")
    label = "\n".join([name, *([_wrapped(_control_or(changed))] if changed else []), str(row["adversary"])])
    captions = [f"{value_text('psnr', image.scores.get('psnr'))} dB" for image in images]
    return GalleryRow(label, pictures, captions, float(row["psnr_mean"]))


def _control_or(changed: str) -> str:
    """What differs from the defaults."""
    return "no gradient" if "gradient=0.0" in changed.split(",") else changed


def _wrapped(text: str) -> str:
    """At most two lines that fit beside the images."""
    name, colon, rest = text.partition(":")
    lines = [name, rest] if colon else [name]
    return "\n".join(line if len(line) <= _LETTERS else f"{line[: _LETTERS - 1]}…" for line in lines)
