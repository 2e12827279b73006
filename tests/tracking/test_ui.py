"""What MLflow's own UI shows of an experiment, in a real browser."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress

import pytest

from harness.metrics.registry import HEADLINE
from harness.tracking.store import connect, experiment_id

METRICS = dict(zip(HEADLINE, (0.9125, 0.8375, 0.7625, 0.6875), strict=True))
# MLflow opens a chat about language models on the first visit; this one is the second.
VISITED = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"


@pytest.fixture
def viewed(uri):
    """The address of a store with one run of all that the view shows."""
    client = connect(uri)
    experiment = experiment_id(uri, name="viewed")
    tags = {"category": "bolt", "model": "dfkde", "backbone": "tiny", "seed": "42"}
    run = client.create_run(experiment, tags=tags | {"swept": "image_size=224"}, run_name="one")
    for name, value in METRICS.items():
        client.log_metric(run.info.run_id, name, value)
    client.set_terminated(run.info.run_id)
    return uri


@contextmanager
def ui(uri):
    """Serve a store as `make ui` does; give the link that it prints for the experiment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "harness.tracking", "ui", "--uri", uri, "--port", port]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet, text=True) as server:
        try:
            lines = iter(server.stdout.readline, "")
            link = next(line for line in lines if line.startswith("viewed: ")).split()[1]
            _wait_for(f"http://127.0.0.1:{port}/health")
            yield link
        finally:
            server.terminate()


def _wait_for(address):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.1)
    raise AssertionError(f"{address} does not answer")


@pytest.fixture
def page():
    """A page of a real headless Chromium; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on PATH")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=flags)
        context = browser.new_context(viewport={"width": 1800, "height": 900})
        context.add_init_script(VISITED)
        yield context.new_page()
        browser.close()


def _shown(page):
    """Wait until the table shows what the view chooses."""
    for text in ("bolt", "tiny", "image_size=224", *HEADLINE, *map(str, METRICS.values())):
        page.get_by_text(text, exact=True).first.wait_for(timeout=60_000)


@pytest.mark.slow
def test_the_menu_lists_the_view_and_both_it_and_the_link_open_it(viewed, page):
    with ui(viewed) as link:
        page.goto(link.partition("&")[0])  # without a view
        page.get_by_test_id("saved-views-trigger").click(timeout=60_000)
        page.get_by_test_id("saved-views-item-tables").click()
        _shown(page)
        page.goto("about:blank")
        page.goto(link)
        _shown(page)
        assert "Metrics of the tables" in page.get_by_test_id("saved-views-trigger").inner_text()
