"""Many independent runs, people x folds x seeds, on the cores of one machine or wherever joblib is told to go."""

import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import joblib
import torch
from joblib.parallel import get_active_backend
from tqdm import tqdm

T = TypeVar("T")


def run_all(
    function: Callable[..., T],
    jobs: Sequence[Mapping[str, Any]],
    *,
    n_jobs: int | None = None,
    description: str = "runs",
    progress: bool = True,
) -> list[T]:
    """What `function(**job)` gives for each job, in the order of the jobs.

    n_jobs : processes at a time, -1 for one a core; None takes that of an active `joblib.parallel_config`, else
        1. Each has one thread; a `parallel_config` may choose another backend (dask, ray) or number of threads.

    A job's random numbers must come from its own settings (a seed): jobs share nothing and end in any order.
    Raises ValueError or RuntimeError that names the first job that failed; the others are given up.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise ValueError(
            f"Runs side by side are not for torchrun (WORLD_SIZE={os.environ['WORLD_SIZE']}): its processes would "
            "each start all of them. Start this command without torchrun."
        )
    backend, active = get_active_backend()
    n_jobs = (active or backend.default_n_jobs) if n_jobs is None else n_jobs
    bar = {"total": len(jobs), "desc": description, "disable": not progress, "unit": "run"}
    if n_jobs == 1 or not jobs:
        return [_run(function, job) for job in tqdm(jobs, **bar)]
    calls = [joblib.delayed(_run)(function, job, parent=os.getpid()) for job in jobs]
    if isinstance(backend, joblib.parallel.BACKENDS["loky"]):
        n_threads = backend.inner_max_num_threads or 1
        with joblib.parallel_config("loky", inner_max_num_threads=n_threads):
            return _collect(calls, n_jobs, bar)
    return _collect(calls, n_jobs, bar)


def _collect(calls: list, n_jobs: int, bar: dict) -> list:
    """In order, with a bar; where the backend cannot give results one by one, without."""
    if not get_active_backend()[0].supports_return_generator:
        return joblib.Parallel(n_jobs=n_jobs)(calls)
    results = joblib.Parallel(n_jobs=n_jobs, return_as="generator")(calls)
    return list(tqdm(results, **bar))


def _run(function: Callable[..., T], job: Mapping[str, Any], *, parent: int | None = None) -> T:
    if parent is not None and os.getpid() != parent:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
    try:
        return function(**job)
    except Exception as error:  # whatever it was, the message says which job
        kind = ValueError if isinstance(error, ValueError) else RuntimeError
        raise kind(f"The run with {_name(job)} failed: {type(error).__name__}: {error}") from error


def _name(job: Mapping[str, Any]) -> str:
    """The job's settings; of arrays and data sets the type only."""
    plain = str | int | float | bool | os.PathLike | None
    parts = [
        f"{key}={value!r}" if isinstance(value, plain) else f"{key}: {type(value).__name__}"
        for key, value in job.items()
    ]
    return textwrap.shorten(", ".join(parts) or "no settings", 200)
