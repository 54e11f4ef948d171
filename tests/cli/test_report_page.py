"""The report in a browser: it sorts, filters, opens what a row links to, fits a phone, and can be read without its script."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from privbench.analysis.leaderboard import leaderboard
from privbench.cli import main
from privbench.core import FailedCase, Record
from privbench.store.files import atomic_write
from privbench.store.places import local_folder

REFERENCE = local_folder(Path(__file__).parents[2] / "results" / "reference.jsonl.gz")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of six reference cases of two data sets and a failed one."""
    folder = tmp_path_factory.mktemp("report")
    kept = sorted(path for path in REFERENCE.iterdir() if path.is_dir() and "--gradvit--" in path.name)[:6]
    kept += sorted(REFERENCE.glob("none--*--photos--*"))[:1]
    for path in kept:
        shutil.copytree(path, folder / "results" / path.name)
    case = Record.load(kept[0] / "record.json").case.model_copy(update={"seed": 7})
    failure = FailedCase(case_id=case.identity, case=case, reason="out of memory", version="0.1.0", finished="2026-01-01")
    atomic_write(folder / "results" / case.folder / "failure.json", failure.to_json().encode())
    done = CliRunner().invoke(main, ["report", str(folder / "results"), "-o", str(folder / "page.html")])
    assert done.exit_code == 0, done.output
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser test needs the package playwright")
    if CHROMIUM is None:
        pytest.skip("the browser test needs Chromium or Chrome")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    """The page on a desk; whatever the browser complains of or wants to fetch fails the test."""
    opened = browser.new_page(viewport={"width": 1400, "height": 900})
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
    opened.goto(page_file.as_uri())
    yield opened
    opened.close()
    assert complaints == []


def column(page: Any, heading: str) -> list[str]:
    """The first lines of the cells of a column that are shown, from top to bottom."""
    script = """heading => {
        const board = document.getElementById("board");
        const place = [...board.tHead.rows[0].cells].findIndex(cell => cell.textContent.trim() === heading);
        return [...board.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[place].firstChild.textContent.trim());
    }"""
    return list(page.evaluate(script, heading))


def test_sorting_by_psnr_is_numeric_and_empty_cells_come_last(page: Any, page_file: Path) -> None:
    expected = leaderboard(page_file.parent / "results")["psnr_mean"].dropna().sort_values()
    button = page.get_by_role("button", name="PSNR dB", exact=True)
    button.click()
    assert column(page, "PSNR dB") == [*(f"{value:.2f}" for value in expected), "n/a"]
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    button.focus()
    page.keyboard.press("Enter")
    assert column(page, "PSNR dB") == [*(f"{value:.2f}" for value in expected[::-1]), "n/a"]
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    page.get_by_role("button", name="s/image").click()
    seconds = [float(text) for text in column(page, "s/image")[:-1]]
    assert seconds == sorted(seconds)
    assert max(seconds) >= 100
    assert page.locator("th[aria-sort]").count() == 1


def test_filters_hide_rows_and_cases(page: Any) -> None:
    assert len(column(page, "adversary")) == 8
    page.get_by_label("adversary").select_option("aware")
    shown = column(page, "adversary")
    assert set(shown) == {"aware"}
    assert page.locator("#count").text_content() == f"{len(shown)} of 8 cases"
    assert page.locator("details:visible").count() == len(shown)
    page.get_by_role("button", name="reset").click()
    assert page.locator("#count").text_content() == "8 of 8 cases"
    page.get_by_label("dataset").select_option("photos")
    assert set(column(page, "data")) == {"photos"}
    page.get_by_role("button", name="reset").click()
    page.get_by_label("text").fill("out of MEMORY")
    assert column(page, "PSNR dB") == ["n/a"]
    page.get_by_label("text").fill("no such words")
    assert column(page, "PSNR dB") == []
    assert page.locator(".defense:visible").count() == 0


def test_a_row_opens_its_gallery(page: Any) -> None:
    assert page.locator("details[open]").count() == 0
    page.locator("#board tbody tr", has_text="oracle").first.get_by_role("link").click()
    (opened,) = page.locator("details[open]").all()
    opened.locator("img").first.wait_for(state="visible")
    assert opened.get_attribute("id") == page.url.partition("#")[2]
    for image in opened.locator("img").all():
        image.scroll_into_view_if_needed()
        page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle())
    # A link that is followed again opens what was closed.
    opened.locator("summary").click()
    page.locator("#board tbody tr", has_text="oracle").first.get_by_role("link").click()
    assert page.locator("details[open]").count() == 1


def test_the_keyboard_reaches_headings_rows_and_cases(page: Any) -> None:
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details[open]").count() == 1
    page.get_by_label("text").focus()
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent.trim()"))
    assert reached[0] == "reset"
    assert "defense" in reached


@pytest.mark.parametrize("opened", [False, True], ids=["closed", "all cases open"])
def test_a_phone_scrolls_tables_and_not_the_page(page: Any, opened: bool) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    if opened:
        page.evaluate("document.querySelectorAll('details').forEach(details => (details.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    box = page.locator(".scroll").first
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")


def test_paper_shows_every_case_with_its_picture(page: Any, page_file: Path) -> None:
    page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.pdf(format="A4").count(b"/Subtype /Image") == len(list((page_file.parent / "results").glob("*/comparison.png")))
    # The screen's copy is as it was afterwards.
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    page.emulate_media(media="print")
    assert not page.locator("form").is_visible()


def test_without_its_script_the_page_can_be_read(browser: Any, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(page_file.as_uri())
    assert opened.locator("#board tbody tr:visible").count() == 8
    assert not opened.locator("form").is_visible()
    opened.locator("summary").first.click()
    assert opened.locator("details[open] table").first.is_visible()
    context.close()
