"""What lies in a folder, at a URL or in a pack: results, single cases, where cases stand, claims judged by them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from privbench.plots.options import FigureOptions

if TYPE_CHECKING:
    from privbench.claims.verdicts import Judgement
    from privbench.core import FailedCase, Record
    from privbench.plots.request import Drawn
    from privbench.results import Results
    from privbench.runner.listener import Listener
    from privbench.runner.verify import Verification
    from privbench.store.base import Store
    from privbench.sweep.status import CaseStatus

__all__ = ["FoundCase", "figure", "find_case", "judge_claims", "load_results", "status", "store_at", "verify"]

RESULTS = Path("results")
"""Where a case is looked for if nobody says otherwise."""


def store_at(place: "Path | str | Store", scratch: Path | None = None) -> "Store":
    """The store behind a path or URL; nothing is opened.

    Args:
        place: A folder, a pack (`.jsonl.gz`), a URL (`s3://`, `gs://`, `sftp://`, ...), or a store, which is returned as it is.
        scratch: Working folder of a URL; None: one in the user's cache.

    Raises:
        UserError: A working folder is given for a folder.
    """
    from privbench.store.places import store_at as found

    return found(place, scratch)


def load_results(place: "Path | str | Store", *, skip_damaged: bool = False) -> "Results":
    """Finds all finished cases below a folder or URL, or in a pack; each is read when it is asked for.

    Example:
        >>> privbench.load_results("results/reference.jsonl.gz").leaderboard()  # doctest: +SKIP

    Args:
        place: Where to look, subfolders included.
        skip_damaged: Leave out damaged files, which are errors else; `Results.damaged` names them.

    Raises:
        UserError: There is no record.
    """
    from privbench.results import Results
    from privbench.store.places import require_records

    found = store_at(place)
    require_records(found)
    return Results(found, skip_damaged=skip_damaged)


def figure(name: str, place: "Path | str | Store | None" = None, **options: Unpack[FigureOptions]) -> "Drawn":
    """Draws a figure; a notebook shows it, `.save("front.pdf")` writes it.

    Args:
        name: Which, as `privbench figure --help` lists them.
        place: Where the records lie; None for a figure of weights alone (`positions`).
        **options: As of `FigureOptions`.

    Raises:
        UserError: There is no such figure, or nothing to draw it from.
    """
    if place is not None:
        return load_results(place).figure(name, **options)
    from privbench.plots.registry import draw_figure
    from privbench.plots.request import request_of

    return draw_figure(name, request_of(None, options))


@dataclass(frozen=True)
class FoundCase:
    """One case, however far it is.

    Attributes:
        name: Where it lies.
        record: What came out; None where it is not finished.
        failure: Why it failed; None where it did not.
        damaged: Files that are missing or were changed since the record was written.
        picture: Its comparison picture (PNG), where there is one.
    """

    name: str
    record: "Record | None" = None
    failure: "FailedCase | None" = None
    damaged: tuple[str, ...] = ()
    picture: bytes | None = None

    def _repr_png_(self) -> bytes | None:
        return self.picture


def find_case(text: str, output: "Path | str | Store" = RESULTS) -> FoundCase:
    """Finds one case.

    Args:
        text: A case's folder, its URL, its place in a pack (`PACK/CASE`), or the first letters of its hash.
        output: Where to look for a hash first; then in every folder below the present one.

    Raises:
        UserError: None or several are meant, or the place cannot be read.
    """
    from privbench.core import FailedCase, Record
    from privbench.store.case_folder import CaseFolder
    from privbench.store.layout import COMPARISON, FAILURE, RECORD
    from privbench.store.places import locate_case
    from privbench.store.search import address_of

    place = store_at(output)
    store, name = locate_case(address_of(text, place), place)
    with store.open(name) as folder:
        path, called = folder / name, store / name
        if (path / RECORD).exists():
            record = Record.load(path / RECORD)
            picture = path / COMPARISON
            return FoundCase(
                called,
                record,
                damaged=tuple(CaseFolder(path.parent, record.case).damaged(record)),
                picture=picture.read_bytes() if picture.exists() else None,
            )
        failure = FailedCase.load(path / FAILURE) if (path / FAILURE).exists() else None
        return FoundCase(called, failure=failure)


def status(place: "Path | str | Store") -> "list[CaseStatus]":
    """Says where all cases of a folder or URL stand, and those of the studies that were begun there, sorted by name.

    Raises:
        UserError: The place cannot be read, or holds no case.
    """
    from privbench.sweep.status import survey

    return survey(store_at(place))


def verify(
    text: str,
    output: "Path | str | Store" = RESULTS,
    *,
    tolerance: float = 1.0,
    device: str = "auto",
    data: str | None = None,
    weights: Path | str | None = None,
    lpips_weights: Path | str | None = None,
    download: bool = True,
    listener: "Listener | None" = None,
) -> "Verification":
    """Computes one case again and compares it with its record.

    Args:
        text: As in `find_case`; a place in a pack serves as well.
        output: Where to look for a hash.
        tolerance: Factor on the tolerances of the metrics.
        device: `auto`, `cpu`, `cuda` (all of them) or `cuda:INDEX`.
        data: Where the private images lie here, under whatever name; None: where the record says.
        weights: File with the victim's weights; None: where the record says.
        lpips_weights: File with the trunk of LPIPS.
        download: Whether a missing trunk may be fetched.
        listener: Who watches.

    Raises:
        UserError: None or several cases are meant, or data or weights are not here, or not the same.
    """
    import tempfile

    from privbench.computing.machine import cpu_threads, resolve_devices
    from privbench.core import ComputeOptions, Record, UserError
    from privbench.runner.context import Here
    from privbench.runner.listener import Listener
    from privbench.runner.suites import Suites
    from privbench.runner.verify import verify as compute
    from privbench.store.case_folder import repeatable
    from privbench.store.layout import RECORD
    from privbench.store.places import locate_case

    store, name = locate_case(text, store_at(output))
    with store.open(name) as folder:
        written = Record.load(folder / name / RECORD)
        if written.case_id != written.case.identity:
            raise UserError(f"{store / name} was changed: its case has the hash {written.case.identity}, not {written.case_id}")
        record = repeatable(folder / name, written)
    threads = cpu_threads(record.provenance.threads, record.case.victim.model.image_size)
    with tempfile.TemporaryDirectory(prefix="privbench-verify-") as scratch, threads:
        return compute(
            record,
            scratch=Path(scratch),
            compute=ComputeOptions(devices=tuple(resolve_devices(device))),
            suites=Suites(None if lpips_weights is None else Path(lpips_weights), download=download),
            listener=listener or Listener(),
            factor=tolerance,
            here=Here(data, None if weights is None else Path(weights)),
        )


def judge_claims(
    definitions: Path | str, places: "Sequence[Path | str | Store]", output: Path | str = Path("claims.md")
) -> "list[Judgement]":
    """Judges the claims of a file by all records and utility reports of some places, and writes the page.

    Args:
        definitions: A YAML file of claims.
        places: Where to look, subfolders included.
        output: The Markdown file.

    Raises:
        UserError: The definitions or a record cannot be read, or the page cannot be written.
    """
    from privbench.claims.page import write_claims

    return write_claims(Path(definitions), [store_at(place) for place in places], Path(output))
