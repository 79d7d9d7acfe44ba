"""A real browser for the pages that the report writes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Headless Chromium: the system's, else the one that `playwright install chromium` put in place.

    For one module: as long as it lives an event loop runs in this thread, and no other test could have its own.
    """
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (pip install playwright)"
    )
    with playwright.sync_playwright() as driver:
        system = next((path for name in _NAMES if (path := shutil.which(name))), None)
        own = driver.chromium.executable_path
        if system is None and not Path(own).exists():
            pytest.skip("no Chromium here: install it, or run `playwright install chromium`")
        browser = driver.chromium.launch(executable_path=system or own, args=["--no-sandbox"])
        yield browser
        browser.close()
