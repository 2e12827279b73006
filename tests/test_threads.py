"""Mapping in threads: in order, bounded, and ended by the first error."""

from __future__ import annotations

import random
import threading
import time

import pytest

from harness.threads import available, parallel_map, shared


@pytest.mark.parametrize("workers", [1, 3])
def test_a_map_is_in_order_and_never_far_ahead(workers):
    drawn = 0

    def items():
        nonlocal drawn
        for k in range(40):
            drawn += 1
            yield k

    def slow(k):
        time.sleep(random.Random(k).random() / 200)
        return k

    for n_yielded, k in enumerate(parallel_map(slow, items(), workers)):
        assert k == n_yielded
        assert drawn - n_yielded <= 2 * workers
    assert drawn == 40


def test_a_map_uses_its_threads_at_once():
    both = threading.Barrier(2, timeout=10)
    list(parallel_map(lambda _: both.wait(), range(4), 2))


def test_an_error_ends_the_map():
    done = []

    def work(k):
        if k == 2:
            raise RuntimeError("two")
        done.append(k)
        return k

    found = []
    with pytest.raises(RuntimeError, match="two"):
        found.extend(parallel_map(work, range(1000), 2))
    assert len(done) < 10


def test_processes_share_the_threads_of_this_one(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    with shared(2):
        assert available() == 3
    assert available() == 6
