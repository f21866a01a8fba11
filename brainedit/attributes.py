"""A regressor that reads known attributes (smile, age, ...) off pictures, and its training."""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from brainedit.assets import FACES
from brainedit.training import fit

_HEADER = "brainedit.attributes"
_BATCH = 64


class AttributeRegressor(nn.Module):
    """A small convolutional network: pictures (n, 3, height, width), 0 to 1 -> attributes (n, n_attributes).

    names : of the attributes, in the order of the columns
    image_size : pictures of another size are resized to it, pixels
    card : what it was trained on and what it reaches on held-out pictures

    `mean` and `std` (n_attributes,) are those of the training pictures; what comes out is in the attributes'
    own units.
    """

    def __init__(self, names: list[str], *, image_size: int = 64, width: int = 32, card: dict | None = None):
        super().__init__()
        if image_size < 32 or image_size % 16:
            raise ValueError(f"image_size must be a multiple of 16 from 32 up; got {image_size}.")
        self.names, self.image_size, self.width, self.card = list(names), image_size, width, card or {}
        widths = [3, width, 2 * width, 4 * width, 4 * width]
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(widths):
            layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.GroupNorm(4, n_out), nn.SiLU()]
        self.maps = nn.Sequential(*layers)
        n_features = widths[-1] * (image_size // 16) ** 2
        self.head = nn.Sequential(nn.Linear(n_features, 128), nn.SiLU(), nn.Linear(128, len(names)))
        self.register_buffer("mean", torch.zeros(len(names)))
        self.register_buffer("std", torch.ones(len(names)))

    def forward(self, images: Tensor) -> Tensor:
        """Attributes (n, n_attributes) in their own units."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"Attributes are read off pictures (n, 3, height, width); got {tuple(images.shape)}."
            )
        return self.standardised(images) * self.std + self.mean

    def standardised(self, images: Tensor) -> Tensor:
        """Attributes in standard deviations of the training pictures."""
        if images.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        return self.head(self.maps(images * 2 - 1).flatten(1))

    @torch.no_grad()
    def table(self, images: Tensor) -> pd.DataFrame:
        """The attributes of many pictures (float 0 to 1, or uint8), one row each."""
        rows = [self(_floats(batch)) for batch in images.split(_BATCH)]
        return pd.DataFrame(torch.cat(rows).numpy(), columns=self.names)

    def save(self, path: str | os.PathLike, *, precision: torch.dtype = torch.float32) -> Path:
        """Write one safetensors file; names, size and card stand in its header."""
        record = {"names": self.names, "image_size": self.image_size, "width": self.width, "card": self.card}
        tensors = {k: v.detach().cpu().to(precision).contiguous() for k, v in self.state_dict().items()}
        partial = Path(f"{path}.partial")
        save_file(tensors, partial, metadata={_HEADER: json.dumps(record)})
        os.replace(partial, path)
        return Path(path)

    @staticmethod
    def load(path: str | os.PathLike) -> "AttributeRegressor":
        """Read what `save` wrote, in eval mode.

        Raises ValueError for a damaged file or another one. Nothing is unpickled.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no attribute regressor at {path}.")
        try:
            with safe_open(path, "pt") as file:
                record = json.loads((file.metadata() or {})[_HEADER])
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            model = AttributeRegressor(**record)
            model.load_state_dict(state)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} is damaged or no attribute regressor ({reason}).") from error
        return model.eval().requires_grad_(False)


def train_attributes(
    images: Tensor,
    attributes: pd.DataFrame,
    *,
    image_size: int = 64,
    n_epochs: int = 12,
    learning_rate: float = 2e-3,
    batch_size: int = 64,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> AttributeRegressor:
    """A regressor from pictures to their known attributes (least squares in standard deviations).

    images : (n, 3, height, width) uint8
    attributes : one row a picture, numeric columns; a column that never changes is refused

    Pictures are slightly shifted, dimmed, blurred and made noisy, so that those of a generator are read too.
    Raises ValueError when rows and pictures differ in number, or a column holds no information.
    """
    if len(images) != len(attributes):
        raise ValueError(f"Need one row of attributes a picture; got {len(attributes)} and {len(images)}.")
    values = torch.tensor(attributes.to_numpy(np.float32))
    dead = [n for n, sd in zip(attributes, values.std(0), strict=True) if not (torch.isfinite(sd) and sd > 0)]
    if dead:
        raise ValueError(f"The attribute {dead[0]!r} is constant or not finite; leave it out.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AttributeRegressor(list(attributes.columns), image_size=image_size)
    model.mean.copy_(values.mean(0))
    model.std.copy_(values.std(0))

    def batches(source: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(images), generator=source)
        for rows in order.split(batch_size):
            yield _disturbed(_floats(images[rows]), source), values[rows]

    def loss(pictures: Tensor, wanted: Tensor) -> Tensor:
        return F.mse_loss(model.standardised(pictures), (wanted - model.mean) / model.std)

    fit(
        model,
        loss,
        batches,
        n_epochs=n_epochs,
        learning_rate=learning_rate,
        seed=seed,
        checkpoint=checkpoint,
        description="attribute regressor",
        progress=progress,
    )
    return model.requires_grad_(False)


def face_attributes() -> AttributeRegressor:
    """The bundled regressor: attributes of painted faces, drawn or made by the generator "faces"."""
    return AttributeRegressor.load(FACES / "attributes.safetensors")


def r_squared(found: pd.DataFrame, wanted: pd.DataFrame) -> pd.Series:
    """Coefficient of determination of each attribute: 1 - residual / total sum of squares."""
    residual = ((wanted - found) ** 2).sum()
    return 1 - residual / ((wanted - wanted.mean()) ** 2).sum()


def _floats(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _disturbed(images: Tensor, source: torch.Generator) -> Tensor:
    """Shift by up to 2 pixels, gain of .9 to 1.1, every other batch blurred, noise of up to .04."""
    size = images.shape[-1]
    top, left = torch.randint(0, 5, (2,), generator=source).tolist()
    images = F.pad(images, (2, 2, 2, 2), mode="replicate")[..., top : top + size, left : left + size]
    if torch.rand((), generator=source) < 0.5:
        small = F.interpolate(images, scale_factor=0.75, mode="bilinear", antialias=True)
        images = F.interpolate(small, (size, size), mode="bilinear")
    gain = 0.9 + 0.2 * torch.rand(len(images), 1, 1, 1, generator=source)
    noise = 0.04 * torch.rand(len(images), 1, 1, 1, generator=source)
    return (images * gain + noise * torch.randn(images.shape, generator=source)).clamp(0, 1)
