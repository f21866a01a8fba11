"""Pictures to train on: a folder of any kinds and sizes, cropped and cached as one array, with their conditions."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from brainedit.encoders.features import cache_folder
from brainedit.encoders.image import read_picture

MIN_PICTURES = 64
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size, each with its condition if there are any.

    images : uint8 (n, 3, size, size)
    names : what each is called
    condition : float32 (n, c_dim), one-hot classes or any numbers; None for none
    columns : what the condition's columns mean
    """

    images: np.ndarray
    names: Sequence[str]
    condition: np.ndarray | None = None
    columns: Sequence[str] = ()

    def __post_init__(self) -> None:
        shape, dtype = self.images.shape, self.images.dtype
        if dtype != np.uint8 or len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise ValueError(f"Pictures are uint8 (n, 3, size, size); {dtype} {shape} came.")
        check_size(shape[2])
        if len(self.names) != len(self.images):
            raise ValueError(f"{len(self.images)} pictures need as many names; {len(self.names)} came.")
        if self.condition is not None:
            _check_condition(self.condition, self.names)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        return self.images[index], None if self.condition is None else self.condition[index]

    @property
    def size(self) -> int:
        """Height and width, pixels."""
        return self.images.shape[2]

    @property
    def c_dim(self) -> int:
        """Width of the condition, 0 for none."""
        return 0 if self.condition is None else self.condition.shape[1]

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Some pictures as uint8 (n, 3, size, size), and their conditions."""
        images = torch.from_numpy(np.ascontiguousarray(self.images[indices]))
        return images, None if self.condition is None else torch.from_numpy(self.condition[indices])

    def subset(self, indices: np.ndarray) -> "Pictures":
        """Only these, in this order."""
        condition = None if self.condition is None else self.condition[indices]
        return Pictures(self.images[indices], [self.names[i] for i in indices], condition, self.columns)

    def split(self, share: float, *, at_least: int = 8) -> tuple[np.ndarray, np.ndarray]:
        """Indices of those to train on and of those held out, about `share` of all.

        A picture's own content decides, so copies stay together and pictures that come later move none.
        """
        rank = np.array([int(digest[:13], 16) / 16**13 for digest in self.digests()])
        held_out = rank <= max(share, np.sort(rank)[at_least - 1])
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)

    def digests(self) -> list[str]:
        """The sha256 of each picture's pixels."""
        return [hashlib.sha256(np.ascontiguousarray(image)).hexdigest() for image in self.images]

    @property
    def sha256(self) -> str:
        """Fingerprint of pictures and conditions, in their order."""
        digest = hashlib.sha256("".join(self.digests()).encode())
        if self.condition is not None:
            digest.update(np.ascontiguousarray(self.condition))
        return digest.hexdigest()


def read_pictures(
    folder: str | Path, *, size: int, labels: str | Path | None = None, progress: bool = True
) -> Pictures:
    """All pictures of a folder and its subfolders, cropped to their central square and resized.

    size : side in pixels, a power of 2 from 8 up
    labels : CSV whose first column holds file names relative to `folder`; a column of text is a class (one-hot,
        in the order of the alphabet), a column of numbers is taken as it is

    The prepared pictures lie in the cache (the environment variable BRAINEDIT_CACHE, or the user's folder)
    under their content, so that a second reading takes seconds.
    Raises ValueError for fewer than 64 pictures, a file that is no picture, one without a label.
    """
    check_size(size)
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder of pictures {folder}.")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if len(files) < MIN_PICTURES:
        raise ValueError(
            f"Training needs at least {MIN_PICTURES} pictures; {folder} holds {len(files)} "
            f"({', '.join(SUFFIXES)})."
        )
    names = [file.relative_to(folder).as_posix() for file in files]
    condition, columns = _conditions(labels, names) if labels is not None else (None, ())
    return Pictures(_prepared(files, size, progress), names, condition, columns)


def check_size(size: int) -> None:
    """Raises ValueError when `size` is not a power of 2 from 8 up."""
    if size < 8 or size & (size - 1):
        raise ValueError(f"The size of the pictures must be a power of 2 from 8 up; got {size}.")


def _prepared(files: list[Path], size: int, progress: bool) -> np.ndarray:
    """Pictures as a read-only memory map (n, 3, size, size), made when the cache has none of this content."""
    digest = hashlib.sha256(f"{size}\n".encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    path = cache_folder() / "pictures" / f"{digest.hexdigest()[:32]}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        made = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(files), 3, size, size))
        for i, file in enumerate(tqdm(files, desc="pictures", disable=not progress)):
            made[i] = _square(read_picture(file), size).transpose(2, 0, 1)
        made.flush()
        partial.replace(path)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _square(picture: np.ndarray, size: int) -> np.ndarray:
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.fit(Image.fromarray(picture), (size, size), Image.Resampling.LANCZOS))


def _conditions(path: str | Path, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Condition (n, c_dim) of the named pictures and the names of its columns."""
    table = pd.read_csv(path)
    if table.shape[1] < 2:
        raise ValueError(
            f"{path} needs a column of file names and at least one of labels; it has {table.shape[1]}."
        )
    table = table.set_index(table.columns[0])
    missing = [name for name in names if name not in table.index]
    if missing:
        raise ValueError(f"{path} has no label for {missing[0]!r} and {len(missing) - 1} more pictures.")
    if table.index.has_duplicates:
        raise ValueError(f"{path} names {table.index[table.index.duplicated()][0]!r} twice.")
    table = table.loc[names]
    empty = table.isna().any(axis=1)
    if empty.any():
        raise ValueError(f"{path} has an empty label for {empty.index[empty][0]!r}.")
    text = [c for c in table.columns if not pd.api.types.is_numeric_dtype(table[c])]
    coded = pd.get_dummies(table, columns=text, prefix_sep="=")
    return coded.to_numpy(np.float32), list(coded.columns)


def _check_condition(condition: np.ndarray, names: Sequence[str]) -> None:
    if condition.dtype != np.float32 or condition.ndim != 2 or len(condition) != len(names):
        raise ValueError(
            f"The condition of {len(names)} pictures is float32 ({len(names)}, c_dim); "
            f"{condition.dtype} {condition.shape} came."
        )
    bad = ~np.isfinite(condition).all(axis=1)
    if bad.any():
        raise ValueError(f"A condition must be finite numbers; that of {names[bad.argmax()]!r} is not.")
