"""Take the pictures of MLflow's UI in this folder: the runs, one run, and two models compared.

    python -m harness.data synthetic dataset=mvtec dataset.root=data/mvtec scale=0.2 side=128
    python -m harness.run -m dataset=mvtec category=bottle model=dfkde,dfkde_residual,knn \
      backbone=efficientnet_lite0,efficientnet_lite1 dataset.official=false
    python docs/screenshots_tracking.py

Run it in the folder of those runs, whose path the pictures show. They show no image of a dataset:
those are not ours to publish. Needs the package `playwright` and a Chromium on PATH.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import BrowserContext, Page, sync_playwright
from screenshots import FLAGS

from harness.tracking import read_runs

DATASET, BACKBONE, MODELS = "mvtec", "efficientnet_lite0", ("dfkde", "knn")
HERE = Path(__file__).parent
TRAINING = "workflowType=machine_learning"
# MLflow opens a chat about language models on the first visit; this one is the second.
VISITED = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"


@contextmanager
def ui() -> Iterator[str]:
    """Serve the UI as `make ui` does, and give the link that it prints for the dataset."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "harness.tracking", "ui", "--port", port]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet, text=True) as server:  # noqa: S603
        try:
            lines = iter(server.stdout.readline, "")
            link = next(line for line in lines if line.startswith(f"{DATASET}: ")).split()[1]
            wait_for(int(port))
            yield link
        finally:
            server.terminate()


def wait_for(port: int) -> None:
    """Wait until the server takes connections."""
    for _ in range(3000):
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"no server on port {port}")


def shoot(page: Page, name: str, *, height: int) -> None:
    """Take one picture once the page has come to rest."""
    page.set_viewport_size({"width": 1400, "height": height})
    page.wait_for_timeout(3000)
    page.screenshot(path=HERE / f"tracking_{name}.png")
    page.close()


def opened(context: BrowserContext, address: str, words: str) -> Page:
    """Open a page, and wait for words that it shows once it is there."""
    page = context.new_page()
    page.goto(address)
    page.get_by_text(words).first.wait_for()
    return page


def compare(context: BrowserContext, server: str, *, experiment: str, runs: list[str]) -> None:
    """Show only what differs between runs, and their curves side by side."""
    given = f"runs={quote(json.dumps(runs))}&experiments={quote(json.dumps([experiment]))}"
    page = opened(context, f"{server}/#/compare-runs?{given}&{TRAINING}", "Run details")
    page.get_by_text("Visualizations").click()
    for switch in page.get_by_role("switch").all()[:2]:
        switch.click()
    page.get_by_text("curves.svg").click()
    page.get_by_text("Run details").scroll_into_view_if_needed()
    shoot(page, "compare", height=1430)


def main() -> None:
    """Take every picture."""
    runs = {
        stored.record.model: stored.run_id
        for stored in read_runs()
        if (stored.record.dataset, stored.record.backbone) == (DATASET, BACKBONE)
    }
    chosen = [runs[model] for model in MODELS]
    found = shutil.which("chromium") or shutil.which("google-chrome")
    with ui() as link, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        context = browser.new_context()
        context.add_init_script(VISITED)
        server, _, rest = link.partition("/#/experiments/")
        experiment = rest.partition("/")[0]
        run = f"{server}/#/experiments/{experiment}/runs/{chosen[0]}"
        shoot(opened(context, link, "aupro"), "runs", height=560)
        shoot(
            opened(context, f"{link}&compareRunsMode=CHART", "Metrics of the tables"),
            "charts",
            height=900,
        )
        shoot(opened(context, f"{run}?{TRAINING}", "About this run"), "run", height=800)
        shoot(
            opened(context, f"{run}/artifacts/curves.svg?{TRAINING}", "Path:"),
            "figures",
            height=520,
        )
        compare(context, server, experiment=experiment, runs=chosen)
        browser.close()


if __name__ == "__main__":
    main()
