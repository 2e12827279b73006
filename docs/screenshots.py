"""Take the pictures of the HTML report in this folder: a desk's screen and a phone's.

    python -m harness.report html --pictures none --output runs/report.html
    python docs/screenshots.py runs/report.html

`--pictures none` leaves the gallery out: the datasets' images are not ours to publish. Needs the
package `playwright` and a Chromium on PATH.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SCREENS = {
    "report_desktop": {"viewport": {"width": 1100, "height": 1400}, "color_scheme": "light"},
    "report_phone": {
        "viewport": {"width": 390, "height": 1400},
        "color_scheme": "dark",
        "device_scale_factor": 2,
    },
}


def shoot(browser: Browser, page: Path, name: str) -> None:
    """Take one picture of the first table that was run, its first category opened."""
    opened = browser.new_context(**SCREENS[name]).new_page()
    opened.goto(page.resolve().as_uri())
    opened.evaluate("document.querySelector('details').open = true")
    opened.screenshot(path=Path(__file__).parent / f"{name}.png")


def main(page: Path) -> None:
    """Take every picture."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        for name in SCREENS:
            shoot(browser, page, name)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
