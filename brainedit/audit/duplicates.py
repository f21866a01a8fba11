"""One picture under several names: equal pixels, mirrored copies, near-duplicates."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from brainedit.encoders.image import read_picture

# Set on 200 scenes of simulate_pictures and 1,000 bundled faces. Different pictures have a distance from 4, a
# correlation to .95 and a largest difference from 1.5; copies through JPEG 30, half size or noise of 10 grey levels
# have 15 at most, .978 at least and 1.4 at most.
MAX_DISTANCE = 16  # of 128 bits
MIN_CORRELATION = 0.97
MAX_DIFFERENCE = 1.5  # of any thumbnail pixel, in standard deviations
SIDE = 16


@dataclass(frozen=True)
class Duplicate:
    """Two names of one picture. how : "identical", "mirrored" (left and right swapped) or "near"."""

    first: str
    second: str
    how: str


def find_duplicates(
    pictures: Mapping[str, str | Path | np.ndarray], *, progress: bool = True
) -> list[Duplicate]:
    """Pairs of names that stand for one picture, each name with the earlier ones.

    pictures : name -> file or array; for 1-D arrays, which are features, equal values alone are found

    Near-duplicates are a copy after compression, resizing, mild noise or a change of brightness or contrast. A copy
    cropped by more than about 2 % of a side, turned, or with an object changed is another picture here.
    Source: difference hash (Krawetz, "Kind of like that", 2013), horizontally and vertically.
    Differs: candidates are confirmed on thumbnails of 16 x 16, since faces share most of their hash.
    """
    names, first = [], {}
    bits, mirrored, thumbnails = [], [], []
    found = []
    for name in tqdm(pictures, desc="pictures", disable=not progress or len(pictures) < 500):
        picture = np.asarray(pictures[name]) if _is_features(pictures[name]) else read_picture(pictures[name])
        key = hashlib.sha256(f"{picture.shape}{picture.dtype}".encode() + picture.tobytes()).digest()
        if key in first:
            found.append(Duplicate(first[key], name, "identical"))
            continue
        first[key] = name
        if picture.ndim == 3:
            names.append(name)
            bits.append(_hash(picture))
            mirrored.append(_hash(picture[:, ::-1]))
            thumbnails.append(_thumbnail(picture))
    if len(names) > 1:
        thumbnail = np.stack(thumbnails)
        found += _pairs(names, np.stack(bits), np.stack(bits), thumbnail, thumbnail, "near")
        near = {(pair.first, pair.second) for pair in found}
        flipped = _pairs(
            names, np.stack(bits), np.stack(mirrored), thumbnail, thumbnail[:, :, ::-1], "mirrored"
        )
        found += [pair for pair in flipped if (pair.first, pair.second) not in near]
    return found


def _is_features(picture: str | Path | np.ndarray) -> bool:
    return isinstance(picture, np.ndarray) and picture.ndim == 1


def _pairs(
    names: list[str], bits: np.ndarray, others: np.ndarray, thumbnail: np.ndarray, other: np.ndarray, how: str
) -> list[Duplicate]:
    found = []
    for i in range(len(names) - 1):
        distance = np.bitwise_count(others[i + 1 :] ^ bits[i]).sum(1)
        for j in i + 1 + np.flatnonzero(distance <= MAX_DISTANCE):
            correlation = (thumbnail[i] * other[j]).mean()
            if correlation >= MIN_CORRELATION and np.abs(thumbnail[i] - other[j]).max() <= MAX_DIFFERENCE:
                found.append(Duplicate(names[i], names[j], how))
    return found


def _hash(picture: np.ndarray) -> np.ndarray:
    """Where grey rises to the right and downwards on 8 x 8 places, (2,) uint64."""
    from PIL import Image

    grey = Image.fromarray(np.ascontiguousarray(picture)).convert("L")
    across = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), int)
    down = np.asarray(grey.resize((8, 9), Image.Resampling.BOX), int)
    rises = np.concatenate([(np.diff(across, axis=1) > 0).ravel(), (np.diff(down, axis=0) > 0).ravel()])
    return np.packbits(rises).view(np.uint64)


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    """(16, 16, 3) with each channel's mean 0 and the whole's standard deviation 1; zeros for a flat picture."""
    from PIL import Image

    small = np.asarray(
        Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX), np.float32
    )  # (16, 16, 3)
    small = small - small.mean((0, 1))
    return small / max(float(small.std()), 1e-6)
