"""One HTML page of a folder of results: the leaderboard, pictures, losses, comparisons, and how each row was made.

Everything that came from a record or a file name is escaped, and the page admits no script but its own. Nothing is fetched:
pictures lie in the page. With many cases their details lie in templates, and each picture lies in the page once.
"""

import base64
import hashlib
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path, PurePosixPath

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from privbench import __version__
from privbench.analysis.compare import Comparison, compare_records, setting_notes
from privbench.analysis.damaged import sound_view
from privbench.analysis.flags import FLAG_MEANINGS
from privbench.analysis.leaderboard import leaderboard_with_folders
from privbench.core import Case, FailedCase, Record, unknown_name
from privbench.report.cells import (
    BETWEEN,
    CHECKED,
    MODEL,
    Cell,
    Presentation,
    between,
    bounds,
    cells,
    columns,
    number,
    text,
)
from privbench.report.pictures import (
    Evolution,
    PictureStore,
    Tile,
    case_evolution,
    case_tiles,
    losses_legend,
    losses_svg,
)
from privbench.scoring import CALIBRATION_ROWS, PAIRED_TEST, registered_metric
from privbench.store.base import Store
from privbench.store.layout import COMPARISON, FAILURE, RECORD, TRACE
from privbench.store.trace import mean_trace

__all__ = ["FOLDED", "Entry", "Presentation", "report_page"]

_COMPARED = "psnr"
_UNDEFENDED = "none"
FOLDED = 100
"""Above so many cases rows are folded by defense, and details are made when they are opened."""


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
        tiles: Its images with highest, median and lowest leakage.
        evolution: Its first image on the way.
        losses: The losses by step as inline SVG; empty where the attack reported none.
        legend: Name of each loss to its first and last value.
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
    tiles: Sequence[Tile] = ()
    evolution: Evolution | None = None
    losses: str = ""
    legend: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    commands: Sequence[str] = ()


def report_page(
    place: Store,
    presentation: Presentation,
    *,
    baseline: str,
    damaged: list[str] | None = None,
    verified: frozenset[str] | None = None,
) -> tuple[str, int]:
    """Makes the page of all cases below a folder.

    Args:
        place: Where to look, subfolders included.
        presentation: Names, numbers and drawings.
        baseline: The defense with which the others are compared, as in the column `defense` of the leaderboard.
        damaged: Takes a line for each damaged file, which is left out; None refuses damaged files.
        verified: Hashes of cases that were computed again, the others are marked as reported; None marks none.

    Returns:
        The page, and the number of its cases, failed ones included.

    Raises:
        UserError: There is no record, or a record or trace cannot be read.
    """
    with place.open() as whole, sound_view(whole, skip=damaged is not None) as (folder, lines):
        if damaged is not None:
            damaged += [line.replace(str(whole), str(place)) for line in lines]
        rows = leaderboard_with_folders(folder)
        store = PictureStore(exact=len(rows) <= FOLDED)
        entries = _leakiest_first(
            _entries(rows, presentation, store, lambda path: str(place / path.relative_to(folder).as_posix()))
        )
    if verified is not None:
        entries = [replace(entry, cells={**entry.cells, CHECKED: _checked(entry, verified)}) for entry in entries]
    by_record = {
        id(entry.record): entry for entry in sorted(entries, key=lambda entry: entry.folder) if entry.record is not None
    }
    records = [entry.record for entry in by_record.values() if entry.record is not None]
    names = {record.case.defense_name for record in records}
    if baseline not in names | {_UNDEFENDED}:
        raise unknown_name("baseline", baseline, names)
    comparisons = compare_records(records, metric=_COMPARED, baseline=baseline)
    flags = sorted({flag for record in records for flag in record.flags})
    here = files("privbench.report")
    style, script = ((here / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    environment = Environment(
        loader=PackageLoader("privbench", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = environment.get_template("page.html").render(
        name=Path(str(place)).resolve().name if "://" not in str(place) else PurePosixPath(str(place)).name,
        version=__version__,
        style=style,
        script=script,
        script_hash=_sha256_base64(script),
        columns=columns(presentation, [entry.cells for entry in entries]),
        folded=len(entries) > FOLDED,
        pictures=json.dumps(store.content) if len(entries) > FOLDED else "{}",
        uri=store.uri,
        absent=Cell("", ""),
        entries=entries,
        groups=_by_defense(entries),
        choices=_choices(entries),
        failed=sum(entry.record is None for entry in entries),
        fronts=[(title, *(_uri("image/svg+xml", svg) for svg in drawings)) for title, *drawings in presentation.fronts(rows)],
        comparisons=[
            (by_record[id(one.record)], note, _comparison_cells(one))
            for one, note in zip(comparisons, setting_notes(comparisons), strict=True)
        ],
        compared=presentation.metrics.get(_COMPARED, _COMPARED),
        baseline=baseline,
        test=PAIRED_TEST,
        flags={flag: FLAG_MEANINGS.get(flag, "") for flag in flags},
        calibration=CALIBRATION_ROWS if any(BETWEEN in entry.cells for entry in entries) else {},
        metrics=presentation.metrics,
        number=presentation.number,
        bounds=lambda name, interval: bounds(presentation, name, interval),
    )
    return page, len(entries)


def _checked(entry: Entry, verified: frozenset[str]) -> Cell:
    return text("verified" if entry.case_id in verified else "reported")


def _leakiest_first(entries: Iterator[Entry]) -> list[Entry]:
    """By the mean of what is compared, what leaks most first; failed cases come last."""
    sign = -1 if registered_metric(_COMPARED).higher_is_leakier else 1

    def key(entry: Entry) -> tuple[bool, float, str]:
        interval = None if entry.record is None else entry.record.summary.get(_COMPARED)
        return interval is None, 0.0 if interval is None else sign * interval.mean, entry.anchor

    return sorted(entries, key=key)


def _entries(
    rows: pd.DataFrame, presentation: Presentation, store: PictureStore, called: Callable[[Path], str]
) -> Iterator[Entry]:
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
        shown = cells({str(name): value for name, value in row.items()}, case, record, failure, presentation)
        if several_models:
            shown[MODEL] = text(case.victim.model.name)
        if calibrated:
            shown[BETWEEN] = text(between(row["psnr_between"]))
        remarks, trace = _beside(folder, record, presentation)
        again = f"privbench run --config {shlex.quote(called(folder))}"
        yield Entry(
            anchor=f"case-{case.identity}" + (f"-{number}" if number > 1 else ""),
            folder=folder,
            case=case,
            case_id=stored.case_id,
            defense=presentation.defense(case),
            attack=presentation.attack(case),
            dataset=shown["data"].text,
            record=record,
            failure=failure,
            cells=shown,
            tiles=[] if record is None else case_tiles(folder, record, presentation, store),
            evolution=None if record is None else case_evolution(folder, record, trace, store),
            losses=losses_svg(trace),
            legend=losses_legend(trace),
            remarks=remarks,
            commands=[again] if record is None else [f"{again} --force", f"privbench verify {shlex.quote(called(folder))}"],
        )


def _beside(folder: Path, record: Record | None, presentation: Presentation) -> tuple[list[str], pd.DataFrame]:
    """What is to be said about the files of a case, and its trace, empty where there is none."""
    if record is None:
        return [], pd.DataFrame()
    absent = {name: reason for name, reason in record.unavailable.items() if name in presentation.metrics}
    remarks = [f"{presentation.metrics[name]} was not computed: {reason}" for name, reason in absent.items()]
    found = {name: (folder / name).read_bytes() for name in (COMPARISON, TRACE) if (folder / name).is_file()}
    if COMPARISON not in found:
        remarks.append(f"{COMPARISON} is not in the folder of the case")
    for name, content in found.items():
        if name in record.files and hashlib.sha256(content).hexdigest() != record.files[name]:
            remarks.append(f"{name} was changed since the record was written")
    return remarks, mean_trace(folder / TRACE) if TRACE in found else pd.DataFrame()


def _uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _sha256_base64(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _by_defense(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
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
        number(interval.n),
    ]
