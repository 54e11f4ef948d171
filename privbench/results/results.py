"""`Results`: finished cases as Python sees them, with the tables, the comparisons, the figures and the pages that they make."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from privbench.core.errors import UserError
from privbench.plots.options import FigureOptions
from privbench.results.case_set import CaseSet
from privbench.results.written import Written
from privbench.store.layout import COMPARISON
from privbench.store.places import store_at

if TYPE_CHECKING:
    import pandas as pd

    from privbench.analysis.compare import Comparison
    from privbench.core import Calibration, Identification
    from privbench.plots.request import Drawn
    from privbench.runner.suites import Suites

__all__ = ["Results"]


@dataclass(frozen=True, eq=False)
class Results(CaseSet):
    """Finished cases with what is made of them.

    Attributes:
        comparison: A picture of several cases on the same images (PNG), where one was drawn.
    """

    comparison: bytes | None = field(default=None, repr=False)

    def leaderboard(self) -> "pd.DataFrame":
        """One row per case, best defense first within one setting; the columns of `privbench leaderboard`.

        Raises:
            UserError: A record cannot be read.
        """
        from privbench.analysis.leaderboard import leaderboard

        with self._sound() as (folder, _):
            return leaderboard(folder)

    def save_leaderboard(self, path: Path | str, *, intervals: bool = True) -> Written:
        """Writes the leaderboard: a row per case as CSV, or the tables of a paper in Markdown or LaTeX, by the file's ending.

        Args:
            path: `.csv`, `.md` or `.tex`.
            intervals: Whether scores in tables have their 95 % intervals.

        Raises:
            UserError: The ending is another, a record cannot be read, or the file cannot be written.
        """
        from privbench.analysis.leaderboard import require_ending, write_leaderboard

        path = Path(path)
        require_ending(path)
        with self._sound() as (folder, damaged):
            if path.suffix.lower() == ".csv":
                return Written(path, len(write_leaderboard(folder, path)), damaged)
            from privbench.analysis.overview import write_overview

            return Written(path, write_overview(folder, path, intervals=intervals), damaged)

    def comparisons(self, *, baseline: str = "none", metric: str = "psnr") -> "list[Comparison]":
        """Every case against that of the baseline defense, of the same attack, model, data and threat model.

        Args:
            baseline: The defense to compare with.
            metric: Whose scores.

        Raises:
            UserError: Nothing compares, or a record lacks the metric.
        """
        from privbench.analysis.compare import compare_records

        found = compare_records(self.records, metric=metric, baseline=baseline)
        if not found:
            names = sorted({record.case.defense_name for record in self.records})
            raise UserError(
                f"nothing of {self.place} can be compared with defense '{baseline[:100]}' on the same images by the same "
                f"attack; the defenses there: {', '.join(names)}"
            )
        return found

    def compare(self, *, baseline: str = "none", metric: str = "psnr") -> "pd.DataFrame":
        """The comparisons as a table.

        Its columns: what was compared, the mean difference with its 95 % bootstrap interval, p of a Wilcoxon signed-rank test,
        the same corrected for the number of rows (Holm), and n.

        Raises:
            UserError: As `comparisons`.
        """
        from privbench.analysis.compare import comparison_rows

        return comparison_rows(self.comparisons(baseline=baseline, metric=metric))

    def figure(self, name: str, **options: Unpack[FigureOptions]) -> "Drawn":
        """Draws a figure of `privbench figure`, such as `front`; a notebook shows it, `.save("front.pdf")` writes it.

        Args:
            name: Which.
            **options: As of `FigureOptions`.

        Raises:
            UserError: There is no such figure, or nothing to draw it from.
        """
        from privbench.plots.registry import draw_figure
        from privbench.plots.request import request_of

        with self._sound(everything=True) as (folder, _):
            return draw_figure(name, request_of(folder, options))

    def report(self, path: Path | str = Path("report.html"), *, baseline: str = "none") -> Written:
        """Writes one HTML page of these cases, which needs no network and no other file.

        Args:
            path: File to write.
            baseline: The defense to compare the others with.

        Raises:
            UserError: The file cannot be written.
        """
        from privbench.store.files import atomic_write, refuse_folder

        path = Path(path)
        refuse_folder(path)
        page, cases, damaged = self._page(baseline)
        atomic_write(path, page.encode())
        return Written(path, cases, damaged)

    def site(self, folder: Path | str = Path("site"), *, baseline: str = "none", verified: Path | str | None = None) -> Written:
        """Writes a static site: the report, the leaderboard as CSV, and a guide for rows of others.

        Args:
            folder: Where to.
            baseline: The defense to compare the others with.
            verified: File with the hashes of cases that were computed again, one a line; the others are shown as reported.

        Raises:
            UserError: A file cannot be read or written.
        """
        from privbench.report.site import submit_page, verified_cases
        from privbench.store.files import atomic_write

        folder = Path(folder)
        known = frozenset[str]() if verified is None else verified_cases(Path(verified))
        page, cases, damaged = self._page(baseline, known)
        files = {
            "index.html": page.encode(),
            "submit.html": submit_page().encode(),
            "leaderboard.csv": self.leaderboard().to_csv(index=False).encode(),
            # GitHub Pages serves the files as they are.
            ".nojekyll": b"",
        }
        for name, content in files.items():
            atomic_write(folder / name, content)
        return Written(folder, cases, damaged)

    def _page(self, baseline: str, verified: frozenset[str] | None = None) -> tuple[str, int, tuple[str, ...]]:
        """The report, the number of its cases, and what was left out of it."""
        from privbench.plots.presentation import presentation
        from privbench.report.page import report_page

        damaged: list[str] | None = [] if self.skip_damaged else None
        with self._folder(everything=True) as folder:
            place = self.place if self.chosen is None else store_at(folder)
            page, cases = report_page(place, presentation(), baseline=baseline, damaged=damaged, verified=verified)
        return page, cases, tuple(damaged or ())

    def pack(self, path: Path | str, *, pictures: bool = True, traces: bool = True) -> Written:
        """Packs these cases into one file of compressed JSON lines, which `load_results` takes in place of a folder.

        Args:
            path: The file; its name ends in `.jsonl.gz`.
            pictures: Comparison pictures and reconstructions too.
            traces: Losses in the course of an attack too.

        Raises:
            UserError: A record cannot be read, or the file cannot be written.
        """
        from privbench.store.pack import pack

        if self.chosen is None:
            return Written(Path(path), pack(self.place, Path(path), pictures=pictures, traces=traces))
        with self._folder(everything=True) as folder:
            return Written(Path(path), pack(store_at(folder), Path(path), pictures=pictures, traces=traces))

    def calibrate(
        self,
        *,
        lpips_weights: Path | str | None = None,
        download: bool = False,
        report: "Callable[[str, Calibration], None] | None" = None,
    ) -> "dict[str, Calibration]":
        """Scores pictures that nobody reconstructed for the images of these cases; the leaderboard joins them.

        Uniform noise, the mean image, another image of the class, the truth with shuffled patches, and a JPEG of quality 10.

        Args:
            lpips_weights: File with the trunk of LPIPS.
            download: Whether a missing trunk may be fetched.
            report: Called with each file's name in the store and its content, as soon as it is written.

        Returns:
            One for each selection of images, by the name of its file.

        Raises:
            UserError: Images are not at hand, a model has no patches, or the trunk is not that of a record.
        """
        from privbench.analysis.reference_scores import calibrations

        found = {}
        with self.repeatable() as cases:
            for name, one in calibrations(cases, _suites(lpips_weights, download)):
                self.place.write({name: one.to_json().encode()})
                found[name] = one
                if report is not None:
                    report(name, one)
        return found

    def identify(
        self,
        *,
        candidates: int | None = None,
        lpips_weights: Path | str | None = None,
        download: bool = False,
        report: "Callable[[str, Identification], None] | None" = None,
    ) -> "dict[str, Identification]":
        """Ranks each true image among candidates by its likeness to the reconstruction; the leaderboard joins the shares.

        Args:
            candidates: How many, the true image included; None: 100, or all of a smaller data set.
            lpips_weights: File with the trunk of LPIPS.
            download: Whether a missing trunk may be fetched.
            report: Called with each case's folder in the store and what was found.

        Returns:
            One for each case, by its folder.

        Raises:
            UserError: Images are not at hand or too few, or the trunk is not that of a record.
        """
        from privbench.analysis.reference_files import IDENTIFICATION
        from privbench.analysis.reference_scores import identifications

        found: dict[str, Identification] = {}
        try:
            with self.repeatable() as cases:
                for name, one in identifications(cases, _suites(lpips_weights, download), candidates=candidates):
                    found[name] = one
                    if report is not None:
                        report(name, one)
        finally:
            self.place.write({f"{name}/{IDENTIFICATION}": one.to_json().encode() for name, one in found.items()})
        return found

    @property
    def comparison_name(self) -> str | None:
        """The file name of the comparison picture in the store; None where there is none."""
        if self.comparison is None:
            return None
        identity = hashlib.sha256("".join(record.case_id for record in self.records).encode()).hexdigest()[:12]
        return f"comparison-{identity}.png"

    def _repr_html_(self) -> str:
        """The scores with their intervals, and the pictures, for a notebook."""
        from privbench.results.notebook import PICTURES, results_html

        if self.comparison is not None:
            return results_html(self.records, [self.comparison])
        pictures = (self.place.read(f"{folder}/{COMPARISON}") for folder in self.folders[:PICTURES])
        return results_html(self.records, [picture for picture in pictures if picture is not None])


def _suites(lpips_weights: Path | str | None, download: bool) -> "Suites":
    from privbench.runner.suites import Suites

    return Suites(None if lpips_weights is None else Path(lpips_weights), download=download)
