"""Picture -> latent in one pass: a small network trained on the generator's own samples."""

import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from brainedit.assets import FACES
from brainedit.encoders.image import resize
from brainedit.encoders.perceptual import FeatureDistance
from brainedit.generators.base import Generator, tensors_sha256
from brainedit.generators.prior import LatentPrior
from brainedit.inversion import check_pictures, psnr
from brainedit.training import fit

FORMAT = "brainedit-inversion-encoder"
_EPOCH = 1024  # pictures
_HELD_OUT = 7_000_000  # added to a seed for samples that took no part in training


class InversionEncoder(nn.Module):
    """Pictures (n, 3, height, width) in 0 to 1 -> latents (n, *shape) of one generator.

    space, shape : of the latents
    input_size : pixels to which pictures are scaled
    width : channels of the first maps; doubled twice on the way down to 4 x 4
    on_sphere : latents are z of a generator that looks at its direction only
    generator_sha256 : which generator's latents they are
    """

    def __init__(
        self,
        *,
        space: str,
        shape: Sequence[int],
        input_size: int = 64,
        width: int = 32,
        on_sphere: bool = False,
        generator_sha256: str = "",
    ):
        super().__init__()
        if input_size < 8 or input_size & (input_size - 1):
            raise ValueError(f"An encoder's input_size is a power of 2 from 8 up; got {input_size}.")
        self.kwargs = {
            "space": space,
            "shape": list(shape),
            "input_size": input_size,
            "width": width,
            "on_sphere": on_sphere,
            "generator_sha256": generator_sha256,
        }
        self.space, self.shape, self.input_size = space, tuple(shape), input_size
        self.on_sphere, self.generator_sha256 = on_sphere, generator_sha256
        halvings = int(math.log2(input_size)) - 2
        widths = [3] + [width * min(2**i, 4) for i in range(halvings)]
        stages = [_stage(a, b) for a, b in itertools.pairwise(widths)]
        self.trunk = nn.Sequential(*stages, nn.Flatten(), nn.Linear(16 * widths[-1], 192), nn.SiLU())
        self.head = nn.Linear(192, math.prod(shape))
        # coordinates of unit variance -> latents
        self.register_buffer("mean", torch.zeros(shape[-1]))
        self.register_buffer("basis", torch.eye(shape[-1]))

    def coordinates(self, images: Tensor) -> Tensor:
        """Latents in units of the prior's standard deviations, (n, *shape)."""
        x = resize(images, size=self.input_size) * 2 - 1
        return self.head(self.trunk(x)).unflatten(1, self.shape)

    def forward(self, images: Tensor) -> Tensor:
        u = self.coordinates(images)
        if self.on_sphere:
            return F.normalize(u, dim=-1) * math.sqrt(u.shape[-1])
        return self.mean + u @ self.basis

    def save(self, path: str | os.PathLike) -> Path:
        """Write encoder.safetensors and encoder.json into the folder `path`."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, folder / "encoder.safetensors.partial")
        record = {"format": FORMAT, "version": 1, "kwargs": self.kwargs}
        (folder / "encoder.json.partial").write_text(json.dumps(record, indent=1), encoding="utf-8")
        for file in ("encoder.safetensors", "encoder.json"):
            os.replace(folder / f"{file}.partial", folder / file)
        return folder


@dataclass(frozen=True)
class EncoderScores:
    """How well an encoder finds samples that took no part in its training.

    r2 : share of the latents' variance that it explains; 0 for the mean latent
    psnr : mean over pictures, dB, between sample and what the generator makes of the latent
    psnr_of_mean : the same when every picture gets the mean latent
    n : samples
    """

    r2: float
    psnr: float
    psnr_of_mean: float
    n: int


def train_encoder(
    generator: Generator,
    *,
    space: str = "w",
    n_pictures: int = 20_000,
    pictures: Tensor | None = None,
    reconstruction: float = 1.0,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> InversionEncoder:
    """An encoder from the generator's own samples, whose latents are known; new ones in every batch.

    In w+ half of the samples take their later layers from a second w.

    space : "z", "w" or "w+"
    n_pictures : samples seen in all
    pictures : real pictures (n, 3, height, width), 0 to 1; a quarter of a batch of them is drawn beside the
        samples, and what the generator makes of their latents is held to look like them
    reconstruction : weight of that part of the loss

    Raises ValueError when the generator lacks the space, or a setting or the pictures do not fit.
    """
    if n_pictures < 1 or batch_size < 2:
        raise ValueError(
            f"Need 1 picture and batches of 2 or more; got {n_pictures} pictures, batches of {batch_size}."
        )
    task = _Samples(generator, space, batch_size=batch_size, n_epoch=min(_EPOCH, n_pictures), seed=seed)
    if pictures is not None and space == "z" and generator.c_dim:
        raise ValueError(
            f"{generator.name} needs the class of each real picture in 'z'; train in 'w' instead."
        )
    if pictures is not None:
        pictures = resize(check_pictures(pictures), size=generator.image_size).to(generator.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = _new_encoder(task.prior, generator).to(generator.device)
    settings = [generator.sha256, space, n_pictures, batch_size, reconstruction]
    if pictures is not None:
        settings.append(tensors_sha256({"pictures": pictures}))
    fit(
        encoder,
        _loss(encoder, task, pictures, reconstruction),
        task.batches,
        n_epochs=math.ceil(n_pictures / _EPOCH),
        learning_rate=learning_rate,
        seed=seed,
        identity=json.dumps(settings),
        checkpoint=checkpoint,
        description="inversion encoder",
        progress=progress,
    )
    return encoder.requires_grad_(False)


def encode(encoder: InversionEncoder, images: Tensor, *, batch_size: int = 64) -> Tensor:
    """Latents (n, *shape) of pictures (n, 3, height, width) or (3, height, width) in 0 to 1.

    Raises ValueError for another shape or numbers outside 0 to 1.
    """
    images = check_pictures(images).to(encoder.mean)
    with torch.no_grad():
        return torch.cat([encoder(part) for part in images.split(batch_size)])


def evaluate_encoder(
    encoder: InversionEncoder, generator: Generator, *, n: int = 200, seed: int = 0
) -> EncoderScores:
    """Scores on n samples that took no part in training (in w+, of one w each, as the prior has them)."""
    _check_same(encoder, generator)
    space = encoder.space
    prior = LatentPrior(generator, space, labels=_every_class(generator))
    truth = prior.draw(n, seed=seed + _HELD_OUT, space="z" if space == "z" else "w")
    if space == "w+":
        truth = truth[:, None].repeat(1, generator.n_layers, 1)
    labels = prior.cycled_labels(n) if space == "z" else None
    wanted = torch.cat(list(generator.synthesize_batches(truth, space=space, labels=labels)))
    found = encode(encoder, wanted)
    images = torch.cat(list(generator.synthesize_batches(found, space=space, labels=labels)))
    truth = prior.latents(prior.coordinates(truth))  # on the sphere, where there is one
    mean = truth.mean(0).expand_as(truth)
    constant = torch.cat(list(generator.synthesize_batches(mean, space=space, labels=labels)))
    left, total = (truth - found).square().sum(), (truth - truth.mean(0)).square().sum()
    scores = [psnr(made, wanted).mean().item() for made in (images, constant)]
    return EncoderScores(r2=float(1 - left / total), psnr=scores[0], psnr_of_mean=scores[1], n=n)


def face_encoder() -> InversionEncoder:
    """The bundled encoder of the generator "faces", into w."""
    return load_encoder(FACES)


def load_encoder(
    path: str | os.PathLike, *, generator: Generator | None = None, device: str = "cpu"
) -> InversionEncoder:
    """An encoder that `InversionEncoder.save` wrote, in eval mode.

    generator : then an encoder of another generator is refused

    Raises FileNotFoundError or ValueError for a folder that holds none, or damaged files.
    """
    folder = Path(path)
    record_path, weights = folder / "encoder.json", folder / "encoder.safetensors"
    for file in (record_path, weights):
        if not file.is_file():
            raise FileNotFoundError(f"{file} does not exist; an encoder's folder holds it.")
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"its format is {record['format']!r}")
        encoder = InversionEncoder(**record["kwargs"])
        encoder.load_state_dict(load_file(weights))
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{folder} holds no inversion encoder that can be read ({reason}).") from error
    if generator is not None:
        _check_same(encoder, generator)
    return encoder.to(device).eval().requires_grad_(False)


# training


class _Samples:
    """Batches of a generator's pictures with their latents."""

    def __init__(self, generator: Generator, space: str, *, batch_size: int, n_epoch: int, seed: int):
        self.generator, self.space = generator, space
        self.batch_size, self.n_batches = batch_size, math.ceil(n_epoch / batch_size)
        self.classes = _every_class(generator)
        self.prior = LatentPrior(generator, space, labels=self.classes, seed=seed)

    @torch.no_grad()
    def batches(self, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for _ in range(self.n_batches):
            latents, labels = self._latents(rng)
            shown = labels if self.space == "z" else None
            images = self.generator.synthesize(latents, space=self.space, labels=shown)
            # where in the real pictures to look, as parts of their number
            yield images, latents, torch.rand(self.batch_size // 4, generator=rng)

    def _latents(self, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        n, device = self.batch_size, self.generator.device
        labels = None
        if self.classes is not None:
            labels = self.classes[torch.randint(len(self.classes), (n,), generator=rng)]
        z = torch.randn(2, n, self.generator.z_dim, generator=rng).to(self.prior.mean)
        if self.space == "z":
            return self.prior.latents(z[0]), labels  # on the sphere, where there is one
        w, other = (self.generator.map(part, labels=labels) for part in z)
        if self.space == "w":
            return w, labels
        n_layers = self.generator.n_layers
        # beyond the last layer for half of them: these stay whole
        crossing = torch.randint(1, 2 * n_layers, (n, 1, 1), generator=rng).to(device)
        later = torch.arange(n_layers, device=device)[None, :, None] >= crossing
        return torch.where(later, other[:, None], w[:, None]), labels


def _loss(
    encoder: InversionEncoder, task: _Samples, pictures: Tensor | None, weight: float
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Squared error over the latents' variance, and the error of what is made of real pictures."""
    distance = FeatureDistance().to(task.generator.device) if pictures is not None else None
    scale = 1.0 if task.prior.basis is None else task.prior.basis.square().sum(0).mean()

    def loss(images: Tensor, latents: Tensor, places: Tensor) -> Tensor:
        # in latents, not coordinates: what varies most shows most in the picture
        value = (encoder(images) - latents).square().mean() / scale
        if pictures is None or len(places) == 0:
            return value
        real = pictures[(places * len(pictures)).long()]
        made = task.generator.raw_images(encoder(real), space=task.space) * 0.5 + 0.5
        error = distance(made, distance.prepare(real)) + 10 * (made - real).square().mean((1, 2, 3))
        return value + weight * error.mean()

    return loss


def _new_encoder(prior: LatentPrior, generator: Generator) -> InversionEncoder:
    encoder = InversionEncoder(
        space=prior.space,
        shape=generator.latent_shape(prior.space),
        input_size=min(64, generator.image_size),
        on_sphere=prior.on_sphere,
        generator_sha256=generator.sha256,
    )
    if prior.basis is not None:
        encoder.mean.copy_(prior.mean)
        encoder.basis.copy_(prior.basis)
    return encoder


def _stage(n_in: int, n_out: int) -> nn.Sequential:
    """Two convolutions, the first of which halves the size."""
    layers: list[nn.Module] = []
    for width, stride in ((n_in, 2), (n_out, 1)):
        layers += [nn.Conv2d(width, n_out, 3, stride=stride, padding=1), nn.GroupNorm(8, n_out), nn.SiLU()]
    return nn.Sequential(*layers)


def _every_class(generator: Generator) -> Tensor | None:
    return torch.eye(generator.c_dim, device=generator.device) if generator.c_dim else None


def _check_same(encoder: InversionEncoder, generator: Generator) -> None:
    if encoder.generator_sha256 != generator.sha256:
        raise ValueError(
            f"The encoder belongs to another generator (sha256 {encoder.generator_sha256[:12]}); "
            f"{generator.name} has {generator.sha256[:12]}."
        )
