"""Write simulated data sets in the layout of published ones."""

import shutil
from pathlib import Path

from brainedit._check import pick


def simulate_files(
    name: str, out: str | Path, *, subjects: list[int], size: str = "full", seed: int = 0
) -> Path:
    """A simulated data set -> OUT.

    subjects : numbers from 1 on. facecat is one file of all people, 30 or for a look 6, and takes [1] alone
    size : "full" as published, "small" for a look

    Raises ValueError for an `out` that exists, or an unknown name or size.
    """
    out = Path(out)
    simulation = pick("simulation", name, SIMULATIONS)
    small = pick("size", size, {"full": False, "small": True})
    if out.exists():
        raise ValueError(f"{out} exists; choose another --out.")
    return simulation(out, subjects, small, seed)


def _things(out: Path, subjects: list[int], small: bool, seed: int) -> Path:
    from brainedit.simulate.things import simulate_things_eeg2

    layout = {"n_concepts": 300, "n_test": 50, "n_test_repeats": 40} if small else {}
    return simulate_things_eeg2(out, subjects=tuple(subjects), seed=seed, **layout)


def _kaneshiro(out: Path, subjects: list[int], small: bool, seed: int) -> Path:
    from brainedit.simulate.kaneshiro import simulate_kaneshiro

    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for subject in subjects:
            simulate_kaneshiro(partial, subject=subject, seed=seed, **({"n_repeats": 12} if small else {}))
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return out


def _facecat(out: Path, subjects: list[int], small: bool, seed: int) -> Path:
    from brainedit.simulate.facecat import simulate_facecat

    if subjects != [1]:
        raise ValueError(f"facecat is one file of all people; leave out subjects, got {subjects}.")
    layout = {"n_people": 6, "n_images": 700} if small else {}
    return simulate_facecat(out, seed=seed, **layout)


SIMULATIONS = {"things_eeg2": _things, "kaneshiro2015": _kaneshiro, "facecat": _facecat}
