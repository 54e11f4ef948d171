"""`Results`: finished cases as Python sees them, with the table, the comparisons, the figures and the page that they make."""

import base64
import hashlib
import html
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from privbench.analysis.compare import Comparison, compare_records
from privbench.analysis.tables import METRICS, interval_text
from privbench.core import Record, UserError
from privbench.core.case import base_name
from privbench.core.labels import attack_label, defense_label, guarantee_text
from privbench.store.base import Store
from privbench.store.layout import COMPARISON, RECORD, find_results
from privbench.store.places import store_at

if TYPE_CHECKING:
    import pandas as pd

    from privbench.plots.request import Drawn

__all__ = ["Results"]

_ROWS = 40
"""So many rows at most does a notebook show."""
_PICTURES = 4
"""So many pictures of single cases at most does a notebook show."""


@dataclass(frozen=True, eq=False)
class Results(Sequence[Record]):
    """Finished cases, in order.

    Attributes:
        records: Their records.
        place: The store that their folders lie in.
        folders: The name of each one's folder in the store.
        whole: Whether these are all cases there.
        comparison: A picture of several cases on the same images (PNG), where one was drawn.
    """

    records: tuple[Record, ...] = field(repr=False)
    place: Store
    folders: tuple[str, ...] = field(repr=False)
    whole: bool = False
    comparison: bytes | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        return self.records[index]

    def leaderboard(self) -> "pd.DataFrame":
        """One row per case, best defense first within model, data and adversary; the columns of `privbench leaderboard`.

        Raises:
            UserError: A record cannot be read.
        """
        from privbench.analysis.leaderboard import leaderboard

        with self._folder() as folder:
            return leaderboard(folder)

    def comparisons(self, *, baseline: str = "none", metric: str = "psnr") -> list[Comparison]:
        """Every case against that of the baseline defense, of the same attack, model, data and threat model.

        Args:
            baseline: The defense to compare with.
            metric: Whose scores.

        Raises:
            UserError: Nothing compares, or a record lacks the metric.
        """
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
        import pandas as pd

        rows = []
        for one in self.comparisons(baseline=baseline, metric=metric):
            case, interval = one.record.case, one.difference.interval
            rows.append(
                {
                    "defense": defense_label(case),
                    "attack": attack_label(case),
                    "adversary": case.threat_model.adversary,
                    "dataset": base_name(case.data.source),
                    "difference": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                    "p": one.difference.p,
                    "p_corrected": one.p_corrected,
                    "n": interval.n,
                }
            )
        return pd.DataFrame(rows)

    def figure(
        self,
        name: str,
        *,
        metric: str = "psnr",
        where: Sequence[str] = (),
        images: int | str = 4,
        rows: Sequence[str] = (),
        data: Path | None = None,
        weights: Sequence[Path | str] = (),
        width: Literal["single", "double"] = "double",
        font: Literal["sans", "serif"] = "sans",
        captioned: bool = True,
    ) -> "Drawn":
        """Draws a figure of `privbench figure`, such as `front`; a notebook shows it, `.save("front.pdf")` writes it.

        Args:
            name: Which.
            metric: Leakage metric.
            where: `COLUMN=VALUE` each: only the records with this value.
            images: Of each case in a gallery: the first so many, or a list such as `best,median,worst`.
            rows: Columns of a gallery of which each combination is one row.
            data: Where the private images of a gallery lie, if not where the records say.
            weights: Weights of further victims, of the figure `positions`.
            width: One column of a paper, or both.
            font: Of all text.
            captioned: Whether the caption stands in the figure.

        Raises:
            UserError: There is no such figure, or nothing to draw it from.
        """
        from privbench.plots.registry import draw_figure
        from privbench.plots.request import FigureRequest
        from privbench.plots.style import paper_of

        paper = paper_of(width, font, captioned=captioned)
        with self._folder(everything=True) as folder:
            files = tuple(map(Path, weights))
            request = FigureRequest(folder, metric, tuple(where), str(images), tuple(rows), data, files, paper)
            return draw_figure(name, request)

    def report(self, path: Path | str, *, baseline: str = "none") -> Path:
        """Writes one HTML page of these cases, which needs no network and no other file.

        Args:
            path: File to write.
            baseline: The defense to compare the others with.

        Raises:
            UserError: The file cannot be written.
        """
        from privbench.analysis.report import Presentation, report_page
        from privbench.analysis.tables import value_text
        from privbench.plots.drawing import draw_fronts
        from privbench.plots.image_grid import comparison_cells
        from privbench.store.files import atomic_write, refuse_folder

        path = Path(path)
        refuse_folder(path)
        presentation = Presentation(
            defense=defense_label,
            attack=attack_label,
            metrics=METRICS,
            number=value_text,
            comparison=comparison_cells,
            fronts=draw_fronts,
        )
        with self._folder(everything=True) as folder:
            place = self.place if self.whole else store_at(folder)
            page, _ = report_page(place, presentation, baseline=baseline)
        atomic_write(path, page.encode())
        return path

    @property
    def labels(self) -> list[str]:
        """What tables call each case: its defense, and where there are several attacks, its attack too."""
        attacks = [attack_label(record.case) for record in self.records]
        several = len(set(attacks)) > 1
        return [
            defense_label(record.case) + (f", {attack}" if several else "")
            for record, attack in zip(self.records, attacks, strict=True)
        ]

    @property
    def comparison_name(self) -> str | None:
        """The file name of the comparison picture in the store; None where there is none."""
        if self.comparison is None:
            return None
        identity = hashlib.sha256("".join(record.case_id for record in self.records).encode()).hexdigest()[:12]
        return f"comparison-{identity}.png"

    @property
    def guarantees(self) -> dict[str, str]:
        """What each defense promises, by its name with parameters."""
        return {defense_label(record.case): guarantee_text(record.case.defense) for record in self.records}

    @contextmanager
    def _folder(self, *, everything: bool = False) -> Iterator[Path]:
        """A folder with these cases and no others, and with prices and calibrations that lie beside them."""
        if self.whole:
            with self.place.open(everything=everything) as folder:
                yield folder
            return
        with tempfile.TemporaryDirectory(prefix="privbench-") as name, self.place.open(everything=everything) as folder:
            copy = Path(name)
            for path in find_results(folder):
                # A case's folder has other files that the record needs; whatever else is JSON stands for itself.
                if path.name != RECORD and path.parent == folder:
                    shutil.copy(path, copy / path.name)
            for number, below in enumerate(self.folders):
                # Two folders of one name, from different places, are two measurements.
                shutil.copytree(folder / below, copy / f"{number}" / Path(below).name)
            yield copy

    def _repr_html_(self) -> str:
        """The scores with their intervals, and the pictures, for a notebook."""
        heads = ("defense", "attack", "adversary", "n", *METRICS.values())
        rows = []
        for record in self.records[:_ROWS]:
            case = record.case
            cells = (
                defense_label(case),
                attack_label(case),
                case.threat_model.adversary,
                str(len(record.images)),
                *(interval_text(name, record.summary.get(name)) for name in METRICS),
            )
            rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
        more = len(self.records) - _ROWS
        note = f"<p>and {more} more cases: .leaderboard() has all</p>" if more > 0 else ""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"
        return table + "".join(f'<img alt="comparison" src="data:image/png;base64,{data}">' for data in self._pictures())

    def _pictures(self) -> Iterator[str]:
        if self.comparison is not None:
            yield base64.b64encode(self.comparison).decode("ascii")
            return
        for folder in self.folders[:_PICTURES]:
            if (content := self.place.read(f"{folder}/{COMPARISON}")) is not None:
                yield base64.b64encode(content).decode("ascii")
