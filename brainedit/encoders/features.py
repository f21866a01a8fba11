"""Features of pictures by a frozen network: computed once for each content, plain or averaged over distortions."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from brainedit._check import pick
from brainedit.encoders.image import ImageEncoder, ReadyFeatures, content_sha256, picture_tensor


def image_features(
    encoder: ImageEncoder | ReadyFeatures,
    pictures: Mapping[str, str | Path | np.ndarray],
    *,
    distort: Sequence[str] = (),
    batch_size: int = 4,
    progress: bool = True,
) -> Tensor:
    """Features (n, n_features) of named pictures in their order, computed once for each content.

    distort : "blur", "noise", "low_resolution": the features are the mean of those of the plain picture and of
        each of these versions, a target for training that leans less on single pixels. A gallery stays plain

    The cache's key is the sha256 of the picture's bytes, the encoder's name and layer, the sha256 of its weights and
    the distortion. It lies in the user's cache folder, or where the environment variable BRAINEDIT_CACHE says.
    Source: NeuroBridge (AAAI 2026), the mean over augmented pictures. Differs: three distortions and the plain picture.
    """
    ready = [
        name for name, picture in pictures.items() if isinstance(picture, np.ndarray) and picture.ndim == 1
    ]
    if isinstance(encoder, ReadyFeatures):
        return _ready(pictures, encoder.n_features, distort)
    if ready:
        raise ValueError(
            f"{ready[0]!r} comes as {len(pictures[ready[0]])} ready-made features; use image_encoder='features'."
        )
    versions = ["", *(name for name in distort if pick("distortion", name, DISTORTIONS))]
    parts = [_cached(encoder, pictures, name, batch_size=batch_size, progress=progress) for name in versions]
    return torch.stack(parts).mean(0) if len(parts) > 1 else parts[0]


def n_ready_features(pictures: Mapping[str, object]) -> int:
    """How many features pictures have that come as 1-D arrays; ValueError where they are pictures."""
    first = next(iter(pictures.values()))
    if not (isinstance(first, np.ndarray) and first.ndim == 1):
        raise ValueError(
            "image_encoder='features' needs features in place of pictures, one 1-D array each; these are pictures."
        )
    return len(first)


def _ready(pictures: Mapping[str, np.ndarray], n_features: int, distort: Sequence[str]) -> Tensor:
    if distort:
        raise ValueError(
            f"Ready-made features cannot be distorted ({', '.join(distort)}); pictures are needed."
        )
    for name, picture in pictures.items():
        if np.shape(picture) != (n_features,) or not np.isfinite(picture).all():
            raise ValueError(f"{name!r} needs {n_features} finite features; {np.shape(picture)} came.")
    return torch.from_numpy(np.stack(list(pictures.values())).astype(np.float32))


def _cached(
    encoder: ImageEncoder, pictures: Mapping, distortion: str, *, batch_size: int, progress: bool
) -> Tensor:
    tag = f"-{distortion}" if distortion else ""
    folder = cache_folder() / "features" / f"{encoder.name.replace('/', '_')}-{encoder.sha256[:16]}{tag}"
    files = {name: folder / f"{content_sha256(picture)}.npy" for name, picture in pictures.items()}
    missing = [name for name in pictures if not files[name].exists()]
    folder.mkdir(parents=True, exist_ok=True)
    batches = [missing[i : i + batch_size] for i in range(0, len(missing), batch_size)]
    device = encoder.mean.device
    for batch in tqdm(batches, desc="image features", disable=not progress or len(batches) < 4):
        images = torch.stack([picture_tensor(pictures[name], size=encoder.size) for name in batch])
        if distortion:
            images = DISTORTIONS[distortion](images)
        with torch.inference_mode():
            features = encoder(images.to(device)).cpu().numpy()
        for name, row in zip(batch, features, strict=True):
            _write_array(files[name], row)
    return torch.from_numpy(np.stack([np.load(files[name], allow_pickle=False) for name in pictures]))


def cache_folder() -> Path:
    """Where computed features lie: BRAINEDIT_CACHE, or the user's cache folder."""
    import pooch

    return Path(os.environ.get("BRAINEDIT_CACHE") or pooch.os_cache("brainedit"))


def _write_array(path: Path, array: np.ndarray) -> None:
    """Write beside, then rename: a file that exists is whole."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.save(file, array)
    partial.replace(path)


def _blur(images: Tensor) -> Tensor:
    from torchvision.transforms.functional import gaussian_blur

    side = images.shape[-1] // 32 * 2 + 1  # 15 at 224 px
    return gaussian_blur(images, [side, side])


def _noise(images: Tensor) -> Tensor:
    """Noise of 25/255, the same for every picture, so that features do not depend on the batch."""
    drawn = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(0))
    return (images + 25 / 255 * drawn).clamp(0, 1)


def _low_resolution(images: Tensor) -> Tensor:
    small = nn.functional.interpolate(images, scale_factor=1 / 8, mode="bilinear", antialias=True)
    return nn.functional.interpolate(small, images.shape[-2:], mode="bilinear").clamp(0, 1)


DISTORTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "blur": _blur,
    "noise": _noise,
    "low_resolution": _low_resolution,
}
