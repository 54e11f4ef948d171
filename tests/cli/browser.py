"""Headless Chromium by its driver; whatever the browser complains of or wants to fetch fails a test."""

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["chromium", "printed"]

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_DRIVER = shutil.which("chromedriver")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def chromium(folder: Path) -> Iterator[Any]:
    """A browser with a profile of its own below a folder; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the browser tests need the package selenium")
    if _CHROMIUM is None or _DRIVER is None:
        pytest.skip("the browser tests need Chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = _CHROMIUM
    for flag in (*_FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(_DRIVER))
    try:
        yield running
    finally:
        running.quit()


def printed(browser: Any) -> bytes:
    """The page on A4 paper, PDF."""
    answer = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    return base64.b64decode(answer["data"])
