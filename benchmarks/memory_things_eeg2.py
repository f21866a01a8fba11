"""Memory of training on one person of THINGS-EEG2 at its published size: the EEG stays on disk.

The published training part is 16,540 pictures x 4 repeats x 63 channels x 250 samples. A file of that size is written
in the published layout, filled with random numbers, and trained on in a process of its own, whose memory is read ten
times a second. The data are simulated and hold nothing to learn: this measures memory and time, no accuracy.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from real_p300 import arguments, print_table, write_results
from tqdm import tqdm

from brainedit.datasets.latents import write_latents
from brainedit.datasets.load import load_dataset
from brainedit.joint_training import train_joint
from brainedit.simulate.things import ALL, write_pickled_eeg

N_PICTURES, N_PER_CONCEPT, N_REPEATS, N_TIMES, SFREQ, N_FEATURES = 16_540, 10, 4, 250, 250.0, 64
LIMIT = 3.0  # GiB of memory of the process's own
GIB = 2**30
STEP = 64  # pictures that are written at once


def write_data(root: Path, n_pictures: int) -> None:
    """A person's training part of simulated noise and random features of the pictures."""
    rng = np.random.default_rng(0)
    concepts = [f"{i // N_PER_CONCEPT + 1:05d}_sim{i // N_PER_CONCEPT + 1:04d}" for i in range(n_pictures)]
    files = [f"sim_{i % N_PER_CONCEPT + 1:02d}b.jpg" for i in range(n_pictures)]
    np.save(root / "image_metadata.npy", {"train_img_concepts": concepts, "train_img_files": files})
    (root / "truth.json").write_text(json.dumps({"simulated": True}))
    (root / "features" / "random").mkdir(parents=True)
    stimuli = [f"training_images/{concept}/{file}" for concept, file in zip(concepts, files, strict=True)]
    features = pd.DataFrame(rng.normal(size=(n_pictures, N_FEATURES)), index=stimuli)
    write_latents(features, root / "features" / "random" / "training.safetensors", space="features")
    (root / "sub-01").mkdir()
    write_pickled_eeg(
        root / "sub-01" / "preprocessed_eeg_training.npy",
        noise(n_pictures, rng),
        (n_pictures, N_REPEATS, len(ALL), N_TIMES),
        ALL,
        np.arange(N_TIMES) / SFREQ,
    )


def noise(n_pictures: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Trials (n, N_REPEATS, n_channels, n_times), each the sum of two of a small pool at random."""
    pool = rng.normal(size=(512, len(ALL), N_TIMES)).astype(np.float32)
    for start in tqdm(range(0, n_pictures, STEP), desc="writing", unit="chunk"):
        n = min(STEP, n_pictures - start)
        first, second = rng.integers(len(pool), size=(2, n, N_REPEATS))
        yield pool[first] + pool[second]


def train(root: Path) -> None:
    """What the measured process does; seconds and sizes as one line of JSON."""
    start = time.monotonic()
    data = load_dataset(name="things_eeg2", root=root, features="random")
    loaded = time.monotonic()
    model = train_joint(
        data,
        image_encoder="features",
        eeg_encoder="eegproject",
        n_dims=32,
        channels="all",
        sfreq=SFREQ,
        tmax=1.0,
        average_repeats=True,
        n_epochs=1,
        batch_size=1024,
        progress=False,
    )
    record = {"n_trials": len(data), "n_values": model.eeg_input.mean.numel(), "load": loaded - start}
    print(json.dumps(record | {"train": time.monotonic() - loaded}))


def measured(root: Path) -> tuple[dict, dict[str, float]]:
    """The training's own account, and the peaks of its memory (GiB) by kind."""
    environment = os.environ | {"BRAINEDIT_CACHE": str(root / "cache")}  # prepared trials lie there
    command = [sys.executable, __file__, "--train", str(root)]
    peaks = {"RssAnon": 0.0, "RssFile": 0.0, "RssShmem": 0.0}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            for kind, size in memory_of(process.pid).items():
                peaks[kind] = max(peaks[kind], size)
            time.sleep(0.1)
        told = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"The training ended with exit code {process.returncode}.")
    return json.loads(told.splitlines()[-1]), peaks


def memory_of(pid: int) -> dict[str, float]:
    """Resident memory of a process, GiB: its own (RssAnon), mapped files (RssFile), shared (RssShmem)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return {}
    sizes = dict(line.split(":", 1) for line in lines if line.startswith("Rss"))
    return {kind: int(size.split()[0]) * 1024 / GIB for kind, size in sizes.items()}


def check_disk(folder: Path, n_pictures: int) -> None:
    """Raises ValueError where the data and the prepared trials, which are written twice, have no room."""
    needed = 3 * n_pictures * N_REPEATS * len(ALL) * N_TIMES * 4
    free = shutil.disk_usage(folder).free
    if free < 1.2 * needed:
        raise ValueError(
            f"{folder} has {free / GIB:.1f} GiB free and {1.2 * needed / GIB:.1f} are needed; name another with --work."
        )


def main() -> None:
    """Write, measure, print the table, write the JSON file."""
    parser = arguments(__doc__.splitlines()[0], "memory_things_eeg2")
    parser.add_argument("--work", type=Path, help="folder for the data; a temporary one when not given")
    parser.add_argument("--keep", action="store_true", help="leave the data there")
    parser.add_argument("--n-pictures", type=int, default=N_PICTURES)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.train)
        return
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="memory_things_eeg2_", dir=options.work))
    try:
        check_disk(work, options.n_pictures)
        write_data(work, options.n_pictures)
        told, peaks = measured(work)
    finally:
        if not options.keep:
            shutil.rmtree(work)
    show(told, peaks, options.out)


def show(told: dict, peaks: dict[str, float], out: str) -> None:
    n_trials = told["n_trials"]
    plain = n_trials * len(ALL) * N_TIMES * 8 / GIB
    rows = {
        "peak of its own memory (RssAnon)": f"{peaks['RssAnon']:.2f} GiB; at most {LIMIT:.1f}",
        "peak of mapped files (RssFile)": f"{peaks['RssFile']:.2f} GiB, which the system may take back",
        "peak of shared memory (RssShmem)": f"{peaks['RssShmem']:.2f} GiB",
        "float64 epochs in memory, for comparison": f"{plain:.2f} GiB",
        "loading": f"{told['load']:.1f} s",
        "training, one epoch": f"{told['train']:.1f} s",
    }
    print_table(f"{n_trials:,} trials x {len(ALL)} channels x {N_TIMES} samples (simulated)", rows)
    write_results(out, "memory_things_eeg2", told | peaks | {"float64_epochs": plain})
    if max(peaks["RssAnon"], peaks["RssShmem"]) > LIMIT:
        sys.exit(f"More than {LIMIT:.1f} GiB of its own memory.")


if __name__ == "__main__":
    main()
