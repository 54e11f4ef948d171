"""The report in a browser: it sorts, filters, folds, opens what a row links to, fits a phone and paper, needs no script."""

import re
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
from tests.cli.browser import chromium, printed

RESULTS = Path(__file__).parents[2] / "results"
REFERENCE = local_folder(RESULTS / "reference.jsonl.gz")
PHOTOS = local_folder(RESULTS / "photos.jsonl.gz")

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of six reference cases of two data sets and a failed one."""
    folder = tmp_path_factory.mktemp("report")
    kept = sorted(path for path in REFERENCE.iterdir() if path.is_dir() and "--adjoint-matching--" in path.name)[:6]
    kept += sorted(PHOTOS.glob("none--*--photos--*"))[:1]
    for path in kept:
        shutil.copytree(path, folder / "results" / path.name)
    case = Record.load(kept[0] / "record.json").case.model_copy(update={"seed": 7})
    failure = FailedCase(case_id=case.identity, case=case, reason="out of memory", version="0.1.0", finished="2026-01-01")
    atomic_write(folder / "results" / case.folder / "failure.json", failure.to_json().encode())
    done = CliRunner().invoke(main, ["report", str(folder / "results"), "-o", str(folder / "page.html")])
    assert done.exit_code == 0, done.output
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    """The page on a desk; whatever the browser complains of fails the test."""
    window(browser, 1400)
    browser.get("about:blank")
    browser.get(page_file.as_uri())
    yield browser
    assert browser.get_log("browser") == []


def window(browser: Any, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def js(page: Any, script: str, *arguments: Any) -> Any:
    return page.execute_script(script, *arguments)


def column(page: Any, heading: str) -> list[str]:
    """The first lines of the cells of a column that are shown, from top to bottom."""
    script = """
        const board = document.getElementById("board");
        const place = [...board.tHead.rows[0].cells].findIndex(cell => cell.textContent.trim() === arguments[0]);
        const rows = [...board.tBodies[0].rows].filter(row => !row.hidden && !row.matches(".group"));
        return rows.map(row => row.cells[place].firstChild.textContent.trim());"""
    return list(js(page, script, heading))


def press(page: Any, heading: str) -> None:
    script = "[...document.querySelectorAll('thead button')].find(one => one.textContent.trim() === arguments[0]).click()"
    js(page, script, heading)


def choose(page: Any, what: str, value: str) -> None:
    script = """
        const field = document.querySelector(`[data-filter=${arguments[0]}]`);
        field.value = arguments[1];
        field.dispatchEvent(new Event("input", {bubbles: true}));"""
    js(page, script, what, value)


def test_sorting_by_psnr_is_numeric_and_empty_cells_come_last(page: Any, page_file: Path) -> None:
    expected = leaderboard(page_file.parent / "results")["psnr_mean"].dropna().sort_values()
    assert column(page, "PSNR dB") == [*(f"{value:.2f}" for value in expected[::-1]), "n/a"]
    for direction, values in (("ascending", expected), ("descending", expected[::-1])):
        press(page, "PSNR dB")
        assert column(page, "PSNR dB") == [*(f"{value:.2f}" for value in values), "n/a"]
        assert js(page, "return [...document.querySelectorAll('th[aria-sort]')].map(one => one.ariaSort)") == [direction]


def test_filters_hide_rows_and_cases_and_stand_in_the_address(page: Any, page_file: Path) -> None:
    assert len(column(page, "adversary")) == 8
    choose(page, "adversary", "aware")
    shown = column(page, "adversary")
    assert set(shown) == {"aware"}
    assert js(page, "return document.getElementById('count').value") == f"{len(shown)} of 8 cases"
    assert js(page, "return document.querySelectorAll('details:not([hidden])').length") == len(shown)
    choose(page, "text", "out of")
    assert page.current_url.endswith("#adversary=aware&text=out%20of")
    # The address alone brings the same rows.
    page.get("about:blank")
    page.get(f"{page_file.as_uri()}#adversary=aware")
    assert column(page, "adversary") == shown
    js(page, "document.querySelector('tbody tr:not([hidden]) a').click()")
    assert re.search(r"#case-[0-9a-f]+&adversary=aware$", page.current_url)
    assert column(page, "adversary") == shown


def test_a_row_opens_its_case_with_slider_and_error_map(page: Any) -> None:
    js(
        page,
        "[...document.querySelectorAll('tbody tr')].find(row => row.textContent.includes('oracle')).querySelector('a').click()",
    )
    assert js(page, "return document.querySelector('details[open]').id") == page.current_url.partition("#")[2]
    over = "document.querySelector('details[open] .compare .over')"
    assert js(page, f"return {over}.style.clipPath") == "inset(0px 50% 0px 0px)"
    move = """
        const slider = document.querySelector("details[open] input[type=range]");
        slider.value = 80;
        slider.dispatchEvent(new Event("input"));"""
    js(page, move)
    assert js(page, f"return {over}.style.clipPath") == "inset(0px 20% 0px 0px)"
    assert js(page, "return document.querySelector('details[open] input[type=range]').ariaLabel")
    # The map is bright exactly where the two pictures differ most.
    wait = """
        const done = arguments[arguments.length - 1];
        const canvas = document.querySelector("details[open] canvas");
        const red = () => canvas.getContext("2d").getImageData(0, 0, 32, 32).data.filter((value, at) => at % 4 === 0);
        const look = () => (canvas.width === 32 ? done(Math.max(...red())) : setTimeout(look, 50));
        look();"""
    assert page.execute_async_script(wait) > 60


def test_above_the_limit_rows_are_folded_by_defense_and_details_made_when_opened(
    browser: Any, page_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privbench.report.page.FOLDED", 3)
    folded = page_file.with_name("folded.html")
    done = CliRunner().invoke(main, ["report", str(page_file.parent / "results"), "-o", str(folded)])
    assert done.exit_code == 0, done.output
    window(browser, 1400)
    browser.get(folded.as_uri())
    heads = js(browser, "return [...document.querySelectorAll('tr.group button')].map(one => one.textContent)")
    assert column(browser, "adversary") == []
    assert sum(int(re.findall(r": (\d+) case", head)[0]) for head in heads) == 8
    # An image that has no source yet is not as wide as its alt text.
    width = "document.querySelector('tr.group button').click(); return document.querySelector('td.thumbs').offsetWidth"
    assert js(browser, width) < 150
    assert len(column(browser, "adversary")) == int(re.findall(r": (\d+) case", heads[0])[0])
    choose(browser, "text", "cifar10")
    assert set(column(browser, "data")) == {"cifar10"}
    assert js(browser, "return document.querySelectorAll('details table').length") == 0
    js(browser, "document.querySelector('#board tbody a').click()")
    assert js(browser, "return document.querySelectorAll('details[open] table').length") >= 1
    assert js(browser, "return [...document.querySelectorAll('details[open] img')].every(one => one.src)")
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("opened", [False, True], ids=["closed", "all cases open"])
def test_a_phone_scrolls_tables_and_not_the_page(page: Any, opened: bool) -> None:
    window(page, 390)
    if opened:
        js(page, "document.querySelectorAll('details').forEach(details => (details.open = true))")
    assert js(page, "return document.documentElement.scrollWidth") == 390
    assert js(page, "const box = document.querySelector('.scroll'); return box.scrollWidth > box.clientWidth")


def test_headings_stay_in_view(page: Any) -> None:
    top = """
        const box = document.querySelector("#leaderboard .scroll");
        box.style.maxHeight = "12rem";
        box.scrollTop = 150;
        return document.querySelector("#board th").getBoundingClientRect().top - box.getBoundingClientRect().top;"""
    assert abs(js(page, top)) < 2


def test_paper_shows_every_case_with_its_pictures_on_few_pages(page: Any) -> None:
    content = printed(page)
    assert len(re.findall(rb"/Type\s*/Page[^s]", content)) <= 4
    # The screen's copy is as it was afterwards.
    js(page, "dispatchEvent(new Event('beforeprint'))")
    assert js(page, "return document.querySelectorAll('details:not([open])').length") == 0
    js(page, "dispatchEvent(new Event('afterprint'))")
    assert js(page, "return document.querySelectorAll('details[open]').length") == 0


def test_without_its_script_the_page_can_be_read(browser: Any, page_file: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(page_file.as_uri())
        words = browser.find_element("tag name", "body").text
        assert "8 cases, 1 of them failed" in words
        assert not browser.find_element("id", "filters").is_displayed()
        browser.find_element("css selector", "summary").click()
        assert browser.find_element("css selector", "details[open] table").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
