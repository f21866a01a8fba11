"""What all tests share: a cache of their own, quiet libraries, fixed seeds, small EEG with a planted pattern."""

import os
from types import SimpleNamespace

import mne
import numpy as np
import pandas as pd
import pytest
import torch


def pytest_make_parametrize_id(val):
    """Files in bytes hold the time they were made at: their length names a test, so that all processes agree."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Features that tests compute are never read from, nor left in, the user's cache."""
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
    with pytest.MonkeyPatch.context() as patch, mne.utils.use_log_level("error"):
        patch.setenv("BRAINEDIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _seeds():
    torch.manual_seed(0)


def _array_epochs(data, metadata=None, *, names=None, sfreq=50.0, tmin=0.0, highpass=0.1, lowpass=20.0):
    names = names or ["Fz", "Cz", "Pz", "Oz", "O1", "O2", "P7", "P8"][: data.shape[1]]
    info = mne.create_info(list(names), sfreq, "eeg")
    with info._unlock():
        info["highpass"], info["lowpass"] = highpass, lowpass
    epochs = mne.EpochsArray(data, info, tmin=tmin, verbose="error")
    if metadata is not None:
        epochs.metadata = pd.DataFrame(metadata)
    return epochs


@pytest.fixture(scope="session")
def array_epochs():
    """Makes mne.Epochs of an array (n, n_channels, n_times) in volts and a dict of metadata."""
    return _array_epochs


@pytest.fixture(scope="session")
def pictures():
    """Six pictures of 64 x 64 pixels that any encoder tells apart, by name."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:64, :64]
    grey = {
        "stripes/rows.png": 255 * (rows // 4 % 2),
        "stripes/columns.png": 255 * (columns // 8 % 2),
        "noise.png": rng.integers(0, 256, (64, 64)),
        "disc.png": 255 * ((rows - 32) ** 2 + (columns - 32) ** 2 < 400),
    }
    made = {name: np.repeat(value[..., None], 3, -1).astype(np.uint8) for name, value in grey.items()}
    made["red.png"] = np.broadcast_to(np.array([220, 20, 30], np.uint8), (64, 64, 3)).copy()
    made["blue.png"] = np.broadcast_to(np.array([20, 40, 230], np.uint8), (64, 64, 3)).copy()
    return made


@pytest.fixture(scope="session")
def viewing(pictures):
    """Twelve trials of each picture, 8 channels, 0 to .8 s at 50 Hz: a pattern of its own under noise."""
    rng = np.random.default_rng(5)
    names = list(pictures)
    pattern = rng.normal(size=(6, 8, 40))
    order = rng.permutation(np.repeat(np.arange(6), 12))
    data = 1e-5 * (0.5 * pattern[order] + rng.normal(size=(72, 8, 40)))
    repeat = pd.Series(order).groupby(order).cumcount().to_numpy()
    metadata = {"stimulus": [names[i] for i in order], "repeat": repeat}
    return SimpleNamespace(
        epochs=_array_epochs(data, metadata),
        train=np.flatnonzero(repeat < 8),
        test=np.flatnonzero(repeat >= 8),
        own=order,  # the column of each trial's picture in `pictures`
    )
