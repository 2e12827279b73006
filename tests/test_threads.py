"""Mapping in threads: in order, bounded, and ended by the first error."""

from __future__ import annotations

import random
import threading
import time

import numpy  # noqa: F401 - loads its BLAS
import pytest
import scipy.linalg  # noqa: F401 - loads its BLAS
from threadpoolctl import threadpool_info, threadpool_limits

from harness.threads import available, one_blas_thread, parallel_map, shared


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


def test_linear_algebra_computes_on_one_thread_whichever_library_does_it():
    """Of numpy and of scipy, which may bring one each."""
    with threadpool_limits(2, user_api="blas"):
        assert {blas["num_threads"] for blas in loaded_blas()} == {2}
        with one_blas_thread():
            assert [blas["num_threads"] for blas in loaded_blas()] == [1] * len(loaded_blas())
        assert {blas["num_threads"] for blas in loaded_blas()} == {2}


def loaded_blas():
    return [library for library in threadpool_info() if library["user_api"] == "blas"]
