"""Runs side by side: in order, named when they fail, one thread each, on the backend that is active."""

import os
import threading
import time

import joblib
import numpy as np
import pytest
import torch

from brainedit.parallel import run_all


def measure(subject, fold, seed=0, wait=0.0):
    time.sleep(wait)
    number = np.random.default_rng([subject, fold, seed]).normal()
    return subject, fold, number, os.getpid(), torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")


def fail(subject, data=None):
    if subject == 2:
        raise KeyError("no such channel")
    if subject == 5:
        raise ValueError("flat channel Oz")
    return subject


JOBS = [{"subject": s, "fold": f, "wait": 0.2 * (s == 0)} for s in range(3) for f in range(2)]


def test_two_workers_give_what_one_gives_in_the_same_order():
    one = run_all(measure, JOBS, progress=False)
    two = run_all(measure, JOBS, n_jobs=2, progress=False)
    assert [result[:3] for result in two] == [result[:3] for result in one]
    assert [result[:2] for result in two] == [(job["subject"], job["fold"]) for job in JOBS]
    assert {result[3] for result in one} == {os.getpid()}
    assert os.getpid() not in {result[3] for result in two}
    assert {result[4:] for result in two} == {(1, "1")}  # two workers with all cores' threads would be slower


def test_a_function_of_the_script_is_a_job_too():
    factor = 3
    assert run_all(lambda x: factor * x, [{"x": 1}, {"x": 2}], n_jobs=2, progress=False) == [3, 6]


@pytest.mark.parametrize(
    ("n_jobs", "subject", "kind", "message"),
    [
        (1, 2, RuntimeError, r"run with subject=2, data: ndarray failed: KeyError: 'no such channel'"),
        (2, 5, ValueError, r"run with subject=5, data: ndarray failed: ValueError: flat channel Oz"),
    ],
)
def test_the_job_that_failed_is_named(n_jobs, subject, kind, message):
    jobs = [{"subject": s, "data": np.zeros((100, 100))} for s in (0, subject, 1)]
    with pytest.raises(kind, match=message):
        run_all(fail, jobs, n_jobs=n_jobs, progress=False)


def test_an_active_configuration_is_respected():
    with joblib.parallel_config("threading", n_jobs=2):
        results = run_all(measure, JOBS, progress=False)
    assert {result[3] for result in results} == {os.getpid()}
    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=2):
        results = run_all(measure, JOBS, progress=False)
    assert os.getpid() not in {result[3] for result in results}
    assert {result[4:] for result in results} == {(2, "2")}


def test_a_backend_that_gives_all_at_once_serves_too(monkeypatch):
    backend = joblib.parallel.BACKENDS["threading"]
    monkeypatch.setattr(backend, "supports_return_generator", property(lambda self: False))
    with joblib.parallel_config("threading", n_jobs=2):
        results = run_all(measure, JOBS, progress=False)
    assert [result[:2] for result in results] == [(job["subject"], job["fold"]) for job in JOBS]


def test_a_backend_says_how_many_when_nobody_else_does():
    class Cluster(joblib.parallel.BACKENDS["threading"]):
        default_n_jobs = 2

    joblib.register_parallel_backend("cluster", Cluster)
    started, both = [], threading.Barrier(2, timeout=20)
    with joblib.parallel_config("cluster"):
        run_all(lambda x: (started.append(x), both.wait()), [{"x": 1}, {"x": 2}], progress=False)
    assert sorted(started) == [1, 2]  # one after the other would have waited for ever


def test_no_jobs_give_no_results():
    assert run_all(measure, [], n_jobs=2, progress=False) == []


def test_the_progress_is_on_standard_error(capsys):
    run_all(measure, JOBS[:1], description="people")
    captured = capsys.readouterr()
    assert "people: 100%" in captured.err
    assert captured.out == ""


def test_torchrun_is_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"not for torchrun \(WORLD_SIZE=2\)"):
        run_all(measure, JOBS, n_jobs=2)
