"""What a terminal shows of a sweep, and that nothing else sees it."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from harness.record import Outcome
from harness.sweep import progress as progress_module
from harness.sweep.progress import Progress

DONE = Outcome("a/b · m · n · s1", "finished", metrics={"image_auroc": 0.75}, n_images=30)
FAILED = Outcome("a/c · m · n · s1", "failed", reason="OSError: gone")


@pytest.fixture
def shown(monkeypatch):
    """Show a sweep of four jobs, two of which have ended in two seconds, and return the screen."""

    def show(terminal):
        text = io.StringIO()
        console = Console(force_terminal=terminal, file=text, width=120, color_system=None)
        with Progress(4, console) as progress:
            started = progress._started
            monkeypatch.setattr(progress_module.time, "perf_counter", lambda: started + 2.0)
            progress.count(DONE)
            progress.count(FAILED)
            progress.stage("anomaly maps")
            progress.refresh()
            time.sleep(0.2)
        return text.getvalue()

    return show


def test_terminal_sees_a_line_for_each_job_and_a_bar(shown):
    text = shown(True)
    assert "finished a/b · m · n · s1  Image AUROC 0.750" in text
    assert "failed   a/c · m · n · s1  OSError: gone" in text
    assert "2/4" in text
    assert "━" in text
    assert "anomaly maps" in text
    assert "15 images/s" in text
    assert "0:00:" in text  # the time left


def test_elsewhere_nothing_is_said(shown):
    assert shown(False) == ""
