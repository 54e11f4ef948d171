"""The report: all cases below a folder as one HTML page that needs nothing else, to be read, sorted and sent around.

The page is generated from records, pictures and loss traces alone; the same folder gives the same bytes. Names in records
come from anywhere: the template escapes every value, pictures are data that cannot run, and the page's own policy admits no
script but the one whose hash it states.
"""

import base64
import hashlib
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from privbench import __version__
from privbench.analysis.compare import Comparison, compare_records
from privbench.analysis.damaged import sound_view
from privbench.analysis.flags import FLAG_MEANINGS
from privbench.analysis.leaderboard import leaderboard_with_folders
from privbench.core import Case, FailedCase, Interval, Record, unknown_name
from privbench.scoring import CALIBRATION_ROWS, PAIRED_TEST
from privbench.store.base import Store
from privbench.store.layout import COMPARISON, FAILURE, RECORD, TRACE
from privbench.store.trace import mean_trace

__all__ = ["Cell", "Column", "Entry", "Presentation", "report_page"]

_COMPARED = "psnr"
_UNDEFENDED = "none"
_ABSENT = "n/a"


@dataclass(frozen=True)
class Presentation:
    """Names, numbers as text, and drawings, which the tier above has.

    Attributes:
        defense: What to call the defense of a case.
        attack: What to call its attack.
        metrics: The metrics to show, and their headings.
        number: A metric's value as text.
        losses: Draws what `mean_trace` returned, as SVG.
        fronts: Draws privacy against accuracy from a leaderboard, title and SVG, once for each setting that
            has a price.
    """

    defense: Callable[[Case], str]
    attack: Callable[[Case], str]
    metrics: Mapping[str, str]
    number: Callable[[str, float | None], str]
    losses: Callable[[pd.DataFrame], bytes]
    fronts: Callable[[pd.DataFrame], Sequence[tuple[str, bytes]]]


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard.

    Attributes:
        heading: Its heading.
        numeric: Whether it is sorted by number.
        note: What it means, for the heading's tooltip.
        css: Its cells' class, where they have one of their own.
    """

    heading: str
    numeric: bool = False
    note: str = ""
    css: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of the leaderboard.

    Attributes:
        text: What it says.
        value: What it is sorted by; empty cells come last.
        small: A second line.
    """

    text: str
    value: str
    small: str = ""


@dataclass(frozen=True)
class Entry:
    """One case of the page.

    Attributes:
        anchor: Its address within the page.
        folder: Where it lies.
        case: What was asked.
        case_id: Its hash.
        defense: What to call its defense.
        attack: What to call its attack.
        dataset: Name of the data set.
        record: What came out; None of a failed case.
        failure: Why it failed; None of a finished one.
        cells: Its row of the leaderboard, by heading.
        picture: The comparison picture as a data URI; empty where there is none.
        losses: The loss trace as a data URI; empty where the attack reported none.
        remarks: What the reader must know: files that are missing or were changed, metrics that were not computed.
        commands: How to compute it again, and how to check it.
    """

    anchor: str
    folder: Path
    case: Case
    case_id: str
    defense: str
    attack: str
    dataset: str
    record: Record | None
    failure: FailedCase | None
    cells: Mapping[str, Cell]
    picture: str = ""
    losses: str = ""
    remarks: Sequence[str] = ()
    commands: Sequence[str] = ()


def report_page(
    place: Store, presentation: Presentation, *, baseline: str, damaged: list[str] | None = None
) -> tuple[str, int]:
    """Makes the page of all cases below a folder.

    Args:
        place: Where to look, subfolders included.
        presentation: Names, numbers and drawings.
        baseline: The defense with which the others are compared, as in the column `defense` of the leaderboard.
        damaged: Takes a line for each damaged file, which is left out; None refuses damaged files.

    Returns:
        The page, and the number of its cases, failed ones included.

    Raises:
        UserError: There is no record, or a record or trace cannot be read.
    """
    with place.open() as whole, sound_view(whole, skip=damaged is not None) as (folder, lines):
        if damaged is not None:
            damaged += [line.replace(str(whole), str(place)) for line in lines]
        rows = leaderboard_with_folders(folder)
        entries = list(_entries(rows, presentation, lambda path: str(place / path.relative_to(folder).as_posix())))
    by_record = {
        id(entry.record): entry for entry in sorted(entries, key=lambda entry: entry.folder) if entry.record is not None
    }
    records = [entry.record for entry in by_record.values() if entry.record is not None]
    names = {record.case.defense_name for record in records}
    if baseline not in names | {_UNDEFENDED}:
        raise unknown_name("baseline", baseline, names)
    comparisons = compare_records(records, metric=_COMPARED, baseline=baseline)
    flags = sorted({flag for record in records for flag in record.flags})
    here = files("privbench.analysis")
    style, script = ((here / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    environment = Environment(
        loader=PackageLoader("privbench", "analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = environment.get_template("report.html").render(
        name=Path(str(place)).resolve().name if "://" not in str(place) else PurePosixPath(str(place)).name,
        version=__version__,
        style=style,
        script=script,
        script_hash=_sha256_base64(script),
        columns=_columns(presentation, entries),
        entries=entries,
        groups=_by_defense(entries),
        choices=_choices(entries),
        failed=sum(entry.record is None for entry in entries),
        fronts=[(title, _uri("image/svg+xml", svg)) for title, svg in presentation.fronts(rows)],
        comparisons=[(by_record[id(one.record)], _comparison_cells(one)) for one in comparisons],
        compared=presentation.metrics.get(_COMPARED, _COMPARED),
        baseline=baseline,
        test=PAIRED_TEST,
        flags={flag: FLAG_MEANINGS.get(flag, "") for flag in flags},
        calibration=CALIBRATION_ROWS if any(_COLUMN_BETWEEN in entry.cells for entry in entries) else {},
        metrics=presentation.metrics,
        number=presentation.number,
        bounds=lambda name, interval: _bounds(presentation, name, interval),
    )
    return page, len(entries)


_COLUMN_BETWEEN = "PSNR stands"
_COLUMN_MODEL = "model"


def _entries(rows: pd.DataFrame, presentation: Presentation, called: Callable[[Path], str]) -> Iterator[Entry]:
    seen: dict[str, int] = {}
    several_models = len(set(rows["model"])) > 1
    calibrated = "psnr_between" in rows and bool(rows["psnr_between"].notna().any())
    for row in rows.to_dict("records"):
        folder: Path = row["folder"]
        stored = Record.load(folder / RECORD) if (folder / RECORD).exists() else FailedCase.load(folder / FAILURE)
        record = stored if isinstance(stored, Record) else None
        failure = stored if isinstance(stored, FailedCase) else None
        case = stored.case
        # A case that was computed in two places has two rows.
        seen[case.identity] = number = seen.get(case.identity, 0) + 1
        cells = _cells({str(name): value for name, value in row.items()}, case, record, failure, presentation)
        if several_models:
            cells[_COLUMN_MODEL] = _text(case.victim.model.name)
        if calibrated:
            cells[_COLUMN_BETWEEN] = _text(_between(row["psnr_between"]))
        picture, losses, remarks = _pictures(folder, record, presentation)
        again = f"privbench run --config {shlex.quote(called(folder))}"
        yield Entry(
            anchor=f"case-{case.identity}" + (f"-{number}" if number > 1 else ""),
            folder=folder,
            case=case,
            case_id=stored.case_id,
            defense=presentation.defense(case),
            attack=presentation.attack(case),
            dataset=cells["data"].text,
            record=record,
            failure=failure,
            cells=cells,
            picture=picture,
            losses=losses,
            remarks=remarks,
            commands=[again] if record is None else [f"{again} --force", f"privbench verify {shlex.quote(called(folder))}"],
        )


def _columns(presentation: Presentation, entries: Sequence[Entry]) -> list[Column]:
    used = {heading for entry in entries for heading in entry.cells}
    metrics = [
        Column(heading, numeric=True, note="mean and 95 % bootstrap interval") for heading in presentation.metrics.values()
    ]
    columns = [
        Column("defense", note="parameters that are not at their default are shown"),
        Column("attack", note="parameters that are not at their default are shown"),
        Column("adversary", note="what the attacker knows of the defense"),
        Column("data"),
        Column(_COLUMN_MODEL),
        Column("n", numeric=True, note="number of images, those on which the attack failed included"),
        *metrics,
        Column(
            _COLUMN_BETWEEN, note="between which of the pictures that nobody reconstructed the mean PSNR stands", css="between"
        ),
        Column("accuracy", numeric=True, note="of the victim on its test set: measured under the defense, or of its card"),
        Column("s/image", numeric=True, note="wall time of the attack, seconds per image"),
        Column("flags", note="their meaning is below", css="flags"),
    ]
    return [column for column in columns if column.heading in used]


def _cells(
    row: Mapping[str, Any], case: Case, record: Record | None, failure: FailedCase | None, presentation: Presentation
) -> dict[str, Cell]:
    """A row of the leaderboard, by heading, without the columns that not every page has."""
    what = f"{case.data.split} {_ranges(case.data.indices)}" + (f", batch {case.batch_size}" if case.batch_size > 1 else "")
    cells = {
        "defense": _parts(presentation.defense(case)),
        "attack": _parts(presentation.attack(case)),
        "adversary": _text(case.threat_model.adversary),
        "data": Cell(str(row["dataset"]), str(row["dataset"]), what),
        "n": Cell("0", "0"),
        "flags": Cell(f"failed: {failure.reason}", "failed") if failure else _text(str(row["flags"])),
    }
    for name, heading in presentation.metrics.items():
        interval = record.summary.get(name) if record else None
        cells[heading] = Cell(_ABSENT, "") if interval is None else _interval(presentation, name, interval)
    cells["accuracy"], cells["s/image"] = _accuracy(row), Cell(_ABSENT, "")
    if record is not None:
        seconds = float(row["seconds_per_image"])
        cells |= {"n": _number(len(record.images)), "s/image": Cell(f"{seconds:.1f}", repr(seconds))}
    return cells


def _parts(label: str) -> Cell:
    """A component's name, and its parameters beneath."""
    name, _, parameters = label.partition(":")
    if "+" in label:
        name, parameters = label, ""
    return Cell(name, label, parameters.replace(",", ", "))


def _text(text: str) -> Cell:
    return Cell(text, text)


def _number(value: int) -> Cell:
    return Cell(str(value), str(value))


def _interval(presentation: Presentation, name: str, interval: Interval) -> Cell:
    return Cell(presentation.number(name, interval.mean), repr(interval.mean), _bounds(presentation, name, interval))


def _bounds(presentation: Presentation, name: str, interval: Interval | None) -> str:
    if interval is None:
        return _ABSENT
    return f"[{presentation.number(name, interval.low)}, {presentation.number(name, interval.high)}]"


def _accuracy(row: Mapping[str, Any]) -> Cell:
    """Measured by `privbench evaluate` where that was done, else of the victim's card."""
    for column, source in (("price_accuracy", "measured"), ("accuracy", "card")):
        value = row.get(column)
        if value is not None and not math.isnan(float(value)):
            return Cell(f"{100 * float(value):.1f} %", repr(float(value)), source)
    return Cell(_ABSENT, "")


def _between(found: object) -> str:
    if not isinstance(found, str):
        return ""
    less, _, more = found.partition("..")
    if less and more:
        return f"{less} to {more}"
    return f"above {less}" if less else f"below {more}"


def _ranges(indices: Sequence[int]) -> str:
    """`0-3, 7`: indices in their order, runs of consecutive ones joined."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _pictures(folder: Path, record: Record | None, presentation: Presentation) -> tuple[str, str, list[str]]:
    """Comparison picture and loss trace of a case as data URIs, and what is to be said about them."""
    if record is None:
        return "", "", []
    absent = {name: reason for name, reason in record.unavailable.items() if name in presentation.metrics}
    remarks = [f"{presentation.metrics[name]} was not computed: {reason}" for name, reason in absent.items()]
    found = {name: (folder / name).read_bytes() for name in (COMPARISON, TRACE) if (folder / name).is_file()}
    if COMPARISON not in found:
        remarks.append(f"{COMPARISON} is not in the folder of the case")
    for name, content in found.items():
        if name in record.files and hashlib.sha256(content).hexdigest() != record.files[name]:
            remarks.append(f"{name} was changed since the record was written")
    trace = mean_trace(folder / TRACE) if TRACE in found else pd.DataFrame()
    drawn = presentation.losses(trace) if len(trace) and len(trace.columns) > 1 else b""
    picture = _uri("image/png", found[COMPARISON]) if COMPARISON in found else ""
    return picture, _uri("image/svg+xml", drawn) if drawn else "", remarks


def _uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _sha256_base64(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _by_defense(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.case.defense_name != "none"):
        groups.setdefault(entry.defense, []).append(entry)
    return groups


def _choices(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """What the page can be filtered by."""
    return {
        "adversary": sorted({entry.case.threat_model.adversary for entry in entries}),
        "attack": sorted({entry.case.attack.name for entry in entries}),
        "defense": sorted({entry.case.defense_name for entry in entries}),
        "dataset": sorted({entry.dataset for entry in entries}),
    }


def _comparison_cells(one: Comparison) -> list[Cell]:
    interval, p, corrected = one.difference.interval, one.difference.p, one.p_corrected
    return [
        Cell(f"{interval.mean:+.2f}", repr(interval.mean), f"[{interval.low:+.2f}, {interval.high:+.2f}]"),
        Cell(f"{p:.2g}", repr(p)),
        Cell(f"{corrected:.2g}", repr(corrected)),
        _number(interval.n),
    ]
