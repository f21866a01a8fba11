"""What a training run shows as it goes: sample grids, the distance to held-out pictures, the losses."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from brainedit.adversarial.kid import KID, kid, kid_features
from brainedit.adversarial.pictures import Pictures
from brainedit.encoders.image import make_image_encoder
from brainedit.generators.stylegan2 import StyleGAN2

ROWS, COLUMNS = 4, 8
N_FEATURES = 1000  # pictures on each side of the distance, where there are so many


class Monitor:
    """Writes into a folder: samples-000010000.png, kid.csv, log.csv; without a folder nothing.

    The grid's latents and conditions stay the same; the distance is taken to pictures that are never trained on.
    """

    def __init__(
        self, folder: str | Path | None, pictures: Pictures, held_out: np.ndarray, *, device: str, seed: int
    ):
        self.folder = None if folder is None else Path(folder)
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pictures, self.held_out, self.device, self.seed = pictures, held_out, device, seed
        self.encoder = None

    def write_log(self, rows: list[dict[str, float]]) -> None:
        """The losses so far, as a table."""
        if self.folder is not None and rows:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            with (self.folder / "log.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(rows)

    def show(self, generator: StyleGAN2, seen: int, reconstruct: Callable[[Tensor], Tensor | None]) -> None:
        """A grid of samples, held-out pictures with their reconstructions below, and a line of distances."""
        if self.folder is None:
            return
        from PIL import Image

        images = self._samples(generator, ROWS * COLUMNS)
        grid = picture_grid(images, columns=COLUMNS)
        real = self.pictures.batch(self.held_out[:COLUMNS])[0].to(self.device)
        again = reconstruct(real.float() / 127.5 - 1)
        if again is not None:
            pair = np.concatenate([real.cpu().numpy(), to_uint8(again)])
            grid = np.concatenate([grid, picture_grid(pair, columns=len(real))])
        Image.fromarray(grid).save(self.folder / f"samples-{seen:09d}.png")
        self._measure(generator, seen)

    def _measure(self, generator: StyleGAN2, seen: int) -> None:
        if self.encoder is None:
            self.encoder = make_image_encoder("efficientnet_lite0").to(self.device)
            n = min(len(self.held_out), N_FEATURES)
            self.real = kid_features(self.encoder, self.pictures.batch(self.held_out[:n])[0])
            self.floor = kid(self.real[::2], self.real[1::2], n_subsets=_n_subsets(n // 2))
        fake = kid_features(self.encoder, self._samples(generator, len(self.real)))
        found = kid(fake, self.real, n_subsets=_n_subsets(len(self.real)))
        path = self.folder / "kid.csv"
        old = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))[1:] if path.exists() else []
        # a run that was killed between this and its checkpoint comes here again
        rows = [row for row in old if int(row[0]) < seen]
        rows.append((seen, *_rounded(found), *_rounded(self.floor)))
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("pictures", "kid", "standard_error", "two_real_halves", "its_error"))
            writer.writerows(rows)

    @torch.no_grad()
    def _samples(self, generator: StyleGAN2, n: int) -> np.ndarray:
        """uint8 (n, 3, size, size); conditions are those of the first pictures."""
        z = torch.randn(n, generator.z_dim, generator=torch.Generator().manual_seed(self.seed))
        labels = None
        if generator.c_dim:
            labels = torch.from_numpy(self.pictures.condition[np.arange(n) % len(self.pictures)])
        images = []
        for start in range(0, n, 50):
            part = slice(start, start + 50)
            condition = None if labels is None else labels[part].to(self.device)
            w = generator.map(z[part].to(self.device), labels=condition)
            images.append(to_uint8(generator.synthesize(w, space="w")))
        return np.concatenate(images)


def to_uint8(images: Tensor) -> np.ndarray:
    """Pictures (n, 3, height, width), 0 to 1, as uint8."""
    return (images * 255).round().byte().cpu().numpy()


def picture_grid(images: np.ndarray, *, columns: int) -> np.ndarray:
    """Pictures uint8 (n, 3, size, size) side by side, (height, width, 3)."""
    n, _, size, _ = images.shape
    rows = n // columns
    grid = images[: rows * columns].reshape(rows, columns, 3, size, size)
    return grid.transpose(0, 3, 1, 4, 2).reshape(rows * size, columns * size, 3)


def _n_subsets(n: int) -> int:
    """Ten parts where each has 20 pictures; fewer, down to one, where they would be smaller."""
    return max(1, min(10, n // 20))


def _rounded(found: KID) -> tuple[float, float]:
    return round(found.value, 6), round(found.standard_error, 6)
