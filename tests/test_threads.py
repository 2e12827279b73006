"""Mapping in threads: in order, bounded, and ended by the first error."""

from __future__ import annotations

import os
import random
import threading
import time

import numpy  # noqa: F401 - loads its BLAS
import pytest
import scipy.linalg  # noqa: F401 - loads its BLAS
from threadpoolctl import threadpool_info, threadpool_limits

from harness.system.threads import available, cores, one_blas_thread, parallel_map, shared


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


GROUPS = "proc/self/cgroup"
V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/cpu"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({GROUPS: "0::/\n"}, 64),
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": "max 100000\n"}, 64),
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": "200000 100000\n"}, 2),
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": "150000 100000\n"}, 2),
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": "1000 100000\n"}, 1),
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": "9900000 100000\n"}, 64),
        ({GROUPS: "0::/a/b\n", f"{V2}/a/b/cpu.max": "max 5\n", f"{V2}/a/cpu.max": "15 5\n"}, 3),
        ({GROUPS: "0::/a/b\n", f"{V2}/a/b/cpu.max": "20 5\n", f"{V2}/a/cpu.max": "15 5\n"}, 3),
        ({GROUPS: "0::/a/b\n", f"{V2}/c/cpu.max": "5 5\n", f"{V2}/a/b/cpu.max": "20 5\n"}, 4),
        # A container that sees its own group only.
        ({GROUPS: "0::/x/y\n", f"{V2}/cpu.max": "40 20\n"}, 2),
        (
            {
                GROUPS: "5:memory:/m\n4:cpu,cpuacct:/a\n0::/\n",
                f"{V1}/a/cpu.cfs_quota_us": "250000\n",
                f"{V1}/a/cpu.cfs_period_us": "100000\n",
                f"{V1}/cpu.cfs_quota_us": "-1\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
                f"{V1}/m/cpu.cfs_quota_us": "100000\n",
                f"{V1}/m/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        ({GROUPS: "nonsense\n", f"{V2}/cpu.max": "5 5\n"}, 64),
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": "\n"}, 64),
    ],
)
def test_the_cores_are_the_fewest_that_anyone_allows(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores(tmp_path) == expected


def test_fewer_cores_to_run_on_than_time_is_allowed_for(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3), raising=False)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / V2).mkdir(parents=True)
    (tmp_path / GROUPS).write_text("0::/\n")
    (tmp_path / V2 / "cpu.max").write_text("800000 100000\n")
    assert cores(tmp_path) == 3


def test_linear_algebra_computes_on_one_thread_whichever_library_does_it():
    """Of numpy and of scipy, which may bring one each."""
    with threadpool_limits(2, user_api="blas"):
        assert {blas["num_threads"] for blas in loaded_blas()} == {2}
        with one_blas_thread():
            assert [blas["num_threads"] for blas in loaded_blas()] == [1] * len(loaded_blas())
        assert {blas["num_threads"] for blas in loaded_blas()} == {2}


def loaded_blas():
    return [library for library in threadpool_info() if library["user_api"] == "blas"]
