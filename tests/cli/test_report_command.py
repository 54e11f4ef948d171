"""`privbench report`: everything that the records say is on the page, nothing in them runs, and nothing is fetched."""

import base64
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from privbench.analysis.flags import FLAG_MEANINGS
from privbench.analysis.score_text import METRICS, value_text
from privbench.core import Case, ComponentSpec, FailedCase, LocalTraining, Record, UtilityReport
from privbench.drawing.image_grid import comparison_cells
from privbench.runner.pictures import read_picture
from privbench.store.files import atomic_write
from privbench.store.layout import find_records
from privbench.store.places import local_folder

Cli = Callable[..., Result]
HOSTILE = "</td><script>alert(1)</script><img src=x onerror=alert(2)>"
REFERENCE = local_folder(Path(__file__).parents[2] / "results" / "reference.jsonl.gz")


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._raw = False
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._raw = tag in {"style", "script"}

    def handle_endtag(self, tag: str) -> None:
        self._raw = False

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def made(privbench: Cli, tmp_path: Path, *arguments: str) -> Page:
    answer = privbench("report", "out", "-o", "page.html", *arguments)
    assert answer.exit_code == 0, answer.output
    return Page((tmp_path / "page.html").read_text(encoding="utf-8"))


def fail(folder: Path, case: Case, reason: str) -> None:
    """A failed case where `privbench sweep` would leave it."""
    failure = FailedCase(case_id=case.identity, case=case, reason=reason, version="0.1.0", finished="2026-01-01T00:00:00+00:00")
    atomic_write(folder / case.folder / "failure.json", failure.to_json().encode())


def test_every_number_of_the_records_is_on_the_page(finished: Path, privbench: Cli, tmp_path: Path) -> None:
    first, *_ = find_records(finished)
    without = json.loads(first.read_bytes())
    for part in ("summary", "summary_saved"):
        without[part].pop("lpips")
    first.write_text(json.dumps({**without, "unavailable": {"lpips": "no weights"}}), encoding="utf-8")
    page = made(privbench, tmp_path)
    records = [Record.load(path) for path in find_records(finished)]
    for record in records:
        for metric in METRICS.keys() & record.summary.keys():
            for image in record.images:
                assert value_text(metric, image.scores[metric]) in page.text
            interval = record.summary[metric]
            bounds = f"[{value_text(metric, interval.low)}, {value_text(metric, interval.high)}]"
            assert f"{value_text(metric, interval.mean)} {bounds}" in page.text
        assert record.provenance.torch in page.text
        assert record.provenance.finished in page.text
        assert f"privbench run --config out/{record.case.folder} --force" in page.text
        assert f"privbench verify out/{record.case.folder}" in page.text
        assert {"id": f"case-{record.case_id}"} in page.all("details")
        assert {"href": f"#case-{record.case_id}"} in page.all("a")
    assert f"random-weights : {FLAG_MEANINGS['random-weights']}" in page.text
    assert " explained " in page.text
    # What was not computed is absent and said so.
    assert "LPIPS was not computed: no weights" in page.text
    assert not re.search(r"\b(nan|NaN|NaT|None|inf|undefined)\b", page.text)


def test_a_page_says_which_kind_of_update_a_row_is_about(finished: Path, privbench: Cli, tmp_path: Path) -> None:
    for path in find_records(finished):
        record = Record.load(path)
        case = record.case.model_copy(update={"trains": "head", "local": LocalTraining(steps=5)})
        other = record.model_copy(update={"case": case, "case_id": case.identity})
        atomic_write(finished / case.folder / "record.json", other.to_json().encode())
    page = made(privbench, tmp_path)
    words = "client trains by sgd, lr 0.01, 5 steps, training known, sent: head"
    assert page.text.count(f", {words}") == 4  # both rows, and the details of both
    assert page.text.count(f" photos {words}") == 1  # their comparison


def test_the_comparison_with_the_baseline_is_that_of_the_compare_command(
    finished: Path, privbench: Cli, tmp_path: Path
) -> None:
    page = made(privbench, tmp_path)
    (row,) = [line for line in privbench("compare", "out").stdout.splitlines() if "test-walk" in line]
    difference, low, high, p, corrected, n = re.findall(r"[-+]?\d[\d.e-]*", row.partition("unaware")[2])
    shown = f"{float(difference):+.2f} [{float(low):+.2f}, {float(high):+.2f}] {p} {corrected} {n}"
    assert f"mjp test-walk unaware photos {shown}" in page.text
    assert "Wilcoxon signed-rank, two-sided" in page.text
    refused = privbench("report", "out", "--baseline", "zzz")
    assert (refused.exit_code, refused.stderr) == (2, "Error: unknown baseline 'zzz'; accepted: mjp, none\n")


def test_pictures_and_losses_are_those_of_the_folders(finished: Path, privbench: Cli, tmp_path: Path) -> None:
    page = made(privbench, tmp_path)
    images = [image for image in page.all("img") if image["src"].startswith("data:image/webp;base64,")]
    assert all(image["loading"] == "lazy" and len(image["alt"]) > 10 for image in images)
    shown = {image["src"]: pixels(image["src"]) for image in images}
    for record in map(Record.load, find_records(finished)):
        folder = finished / record.case.folder
        compared = comparison_cells((folder / "comparison.png").read_bytes(), len(record.images), 32)
        for image, (original, fed, found) in zip(record.images, compared, strict=True):
            assert image.reconstruction is not None
            saved = read_picture(folder / image.reconstruction)
            # Random pixels in 256 colours; another picture would differ by 85.
            assert np.abs(found.astype(float) - saved).mean() < 25
            for picture in (original, fed, saved):
                assert any(np.array_equal(picture, other) for other in shown.values())
    content = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert content.count('aria-label="Losses by step"') == 2


def pixels(uri: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A data URI's image."""
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGB"), dtype=float)


def test_what_leaks_most_comes_first_and_failed_cases_last(finished: Path, privbench: Cli, tmp_path: Path) -> None:
    records = [Record.load(path) for path in find_records(finished)]
    fail(finished, records[0].case.model_copy(update={"seed": 7}), "out of memory")
    rows = [row["data-id"] for row in made(privbench, tmp_path).all("tr") if "data-id" in row]
    ordered = sorted(records, key=lambda record: -record.summary["psnr"].mean)
    assert rows[:-1] == [record.case_id for record in ordered]


def test_above_a_hundred_cases_details_are_text_and_every_picture_once(
    finished: Path, privbench: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privbench.report.page.FOLDED", 1)
    page = made(privbench, tmp_path)
    content = (tmp_path / "page.html").read_text(encoding="utf-8")
    made_later = re.findall(r'</summary>\s*<script type="text/html">(.*?)</script>\s*</details>', content, flags=re.DOTALL)
    assert len(made_later) == len(page.all("details")) == 2
    (stored,) = re.findall(r'<script type="application/json" id="pictures">(.*?)</script>', content)
    keys = {image["data-picture"] for image in page.all("img") if "data-picture" in image}
    keys |= {key for text in made_later for key in re.findall(r'data-picture="([^"]+)"', text)}
    assert keys == json.loads(stored).keys()
    assert not any(image.get("src", "").startswith("data:image/webp") for image in page.all("img"))


def test_missing_and_changed_pictures_are_said(finished: Path, privbench: Cli, tmp_path: Path) -> None:
    first, second = sorted(finished.glob("*/comparison.png"))
    first.unlink()
    second.write_bytes(second.read_bytes() + b"\0")
    page = made(privbench, tmp_path)
    assert page.text.count("comparison.png is not in the folder of the case") == 1
    assert page.text.count("comparison.png was changed since the record was written") == 1


def test_a_failed_case_is_a_row_with_its_reason(finished: Path, privbench: Cli, tmp_path: Path) -> None:
    case = Record.load(find_records(finished)[0]).case
    failed = case.model_copy(update={"seed": 7})
    fail(finished, failed, "out of memory at step 3")
    page = made(privbench, tmp_path)
    assert "3 cases, 1 of them failed" in page.text
    assert "failed: out of memory at step 3" in page.text
    assert f"privbench run --config out/{failed.folder}" in page.text
    (row,) = [row for row in page.all("tr") if row.get("class") == "failed"]
    assert row["data-case"] == f"case-{failed.identity}"


def test_hostile_names_are_text(finished: Path, privbench: Cli, tmp_path: Path) -> None:
    path = find_records(finished)[0]
    content = json.loads(path.read_bytes())
    content["case"]["defense"] = [{"name": HOSTILE, "parameters": {}}]
    content["images"][0]["image"] = HOSTILE
    content["images"][1]["failure"] = HOSTILE
    content["flags"] = [HOSTILE]
    content["case_id"] = Case.model_validate(content["case"]).identity
    path.write_text(json.dumps(content), encoding="utf-8")
    (path.parent / "trace.csv").write_text(f'batch,step,phase,"$\\bad{HOSTILE}"\n0,1,"$^{HOSTILE}",0.5\n', encoding="utf-8")
    path.parent.rename(finished / "x$(touch y);'")
    hostile = Case.model_validate(content["case"]).model_copy(update={"attack": ComponentSpec(name=HOSTILE, parameters={})})
    fail(finished, hostile, HOSTILE)
    page = made(privbench, tmp_path)
    assert [script.get("type") for script in page.all("script")] == ["application/json", None]
    assert not [attributes for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert page.text.count(HOSTILE) >= 6
    # The command can be pasted into a shell: the name of the folder is one word of it.
    assert """--config 'out/x$(touch y);'"'"''""" in page.text


def test_nothing_is_fetched_and_one_script_may_run(finished: Path, privbench: Cli, tmp_path: Path) -> None:
    page = made(privbench, tmp_path)
    content = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import|//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", content).replace(" // ", ""))
    targets = [attributes[name] for _, attributes in page.tags for name in ("src", "href") if name in attributes]
    assert all(target.startswith(("#", "data:")) for target in targets)
    (policy,) = [tag["content"] for tag in page.all("meta") if tag.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert {target[1:] for target in targets if len(target) > 1 and target[0] == "#"} <= {
        attributes["id"] for _, attributes in page.tags if "id" in attributes
    }


def test_the_front_is_drawn_where_a_report_was_measured(finished: Path, privbench: Cli, tmp_path: Path) -> None:
    assert "Privacy against accuracy" not in made(privbench, tmp_path).text
    record = Record.load(find_records(finished)[0])
    share = {"mean": 0.625, "low": 0.5, "high": 0.75, "n": 8}
    utility = UtilityReport.model_validate(
        {
            "victim": record.case.victim.model_dump(),
            "defense": [part.model_dump() for part in record.case.defense],
            "dataset": "photos",
            "images": 8,
            "seed": 0,
            "accuracy": share,
            "defended_accuracy": share,
            "jigsaw": "mask_ratio=0.1",
            "calibration_error": 0.1,
            "epsilon": 0.01,
            "fgsm_accuracy": share,
            "pgd_accuracy": share,
            "corrupted_accuracy": {"blur": (0.5,) * 5},
            "torch": "2",
        }
    )
    (finished / "utility--test.json").write_text(utility.to_json(), encoding="utf-8")
    page = made(privbench, tmp_path)
    assert "Privacy against accuracy" in page.text
    assert "62.5 % measured" in page.text
    assert sum("Leakage against accuracy" in image["alt"] for image in page.all("img")) == 1


def test_the_scores_are_placed_where_there_is_a_calibration(finished: Path, privbench: Cli, tmp_path: Path) -> None:
    assert "PSNR stands" not in made(privbench, tmp_path).text
    assert privbench("calibrate", "out", "--no-download").exit_code == 0
    page = made(privbench, tmp_path)
    assert "PSNR stands" in page.text
    assert re.search(r"(above|below) [a-z0-9-]+|[a-z0-9-]+ to [a-z0-9-]+", page.text)


def test_the_same_folder_gives_the_same_bytes(finished: Path, privbench: Cli, tmp_path: Path) -> None:
    made(privbench, tmp_path)
    first = (tmp_path / "page.html").read_bytes()
    made(privbench, tmp_path)
    assert (tmp_path / "page.html").read_bytes() == first


def test_what_cannot_be_done_is_said_in_one_line(finished: Path, privbench: Cli, tmp_path: Path) -> None:
    assert "there is no folder nowhere" in privbench("report", "nowhere").stderr
    assert "it is a folder; give the name of a file" in privbench("report", "out", "-o", "out").stderr
    next(finished.glob("*/trace.csv")).write_text("step\n1\n", encoding="utf-8")
    answer = privbench("report", "out")
    assert answer.exit_code == 2
    assert "cannot read the loss trace" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_every_flag_of_the_reference_results_has_a_meaning() -> None:
    flags = {flag for path in find_records(REFERENCE) for flag in Record.load(path).flags}
    assert flags
    assert flags - FLAG_MEANINGS.keys() == set()
