"""Picture -> latent, by descent on the latent, with the error that is left and how unusual the latent is."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from brainedit.encoders.image import resize
from brainedit.encoders.perceptual import make_distance
from brainedit.generators.base import Generator
from brainedit.generators.prior import LatentPrior

SPACES = ("z", "w", "w+")
POOR_PSNR = 18.0  # dB; below it a picture's layout is lost as a rule
POOR_DISTANCE = 0.5  # of the feature distance between two different samples of the generator
_VARIANCE_FLOOR = (
    1e-3  # of the mean variance: moves where the prior hardly varies are unusual, not impossible
)
_PIXEL_WEIGHT, _NOISE_WEIGHT = 10.0, 100.0
_PULL = {"z": 0.1, "w": 1e-2, "w+": 1e-2}
_LEARNING_RATE = {"z": 0.1, "w": 0.1, "w+": 0.1}
_JITTER = 0.1  # standard deviations, at the start
_SCOUT = 0.2  # share of the steps in which all restarts run


@dataclass(frozen=True)
class Inversion:
    """Latents found for n pictures, and how far to trust them.

    latents : (n, ...) in the space asked for
    images : (n, 3, height, width), what the generator makes of them, 0 to 1
    noise : a map (n, 1, height, width) for each of the generator's noise inputs, where they were optimised
    psnr, ssim, feature_distance : (n,), between image and picture; dB, at most 1, at least 0
    off_prior : (n,), Mahalanobis distance from the prior's mean; in z the length, in w+ the root mean square
        over layers
    prior_range : the off_prior that 99.9 % of the prior's own samples have
    warnings : for each picture the sentences that a reader must see
    """

    latents: Tensor
    images: Tensor
    noise: list[Tensor] | None
    psnr: np.ndarray
    ssim: np.ndarray
    feature_distance: np.ndarray
    off_prior: np.ndarray
    prior_range: tuple[float, float]
    warnings: list[tuple[str, ...]]


def invert(
    generator: Generator,
    image: Tensor,
    *,
    space: str = "w+",
    steps: int = 500,
    seed: int = 0,
    n_restarts: int = 4,
    start: Tensor | None = None,
    labels: Tensor | int | None = None,
    optimise_noise: bool = False,
    perceptual: str | nn.Module = "efficientnet_lite0",
    batch_size: int | None = None,
    progress: bool = True,
) -> Inversion:
    """Latents whose pictures look like the given ones, with their error: no generator can make every picture.

    The loss is a distance of frozen features, plus squared pixel differences, plus a pull to the prior. All
    restarts run for a fifth of the steps; the best one of each picture, by the loss on that picture, goes on.

    image : (n, 3, height, width) or (3, height, width), 0 to 1; scaled to the generator's size, with a warning
    space : "z", "w" or "w+"; z stays on its sphere where the generator normalises it
    n_restarts : starts for each picture: the mean of w (in z a draw), then draws from the prior
    start : latents that take the place of the first start, (n, ...) in `space`; in "w+" also in w
    labels : for a conditional generator, as in `Generator.synthesize`; in w they say which prior is meant
    optimise_noise : fit the noise maps too, from new draws; they may then hold detail that no latent can edit
    perceptual : "efficientnet_lite0", "lpips", or a module with the interface of `FeatureDistance`
    batch_size : latents optimised at once; by the picture's size when None

    Returns an `Inversion` and not the latents alone, so that no one edits a picture without seeing what was lost.
    Raises ValueError when the generator lacks the space, or pictures, start or a setting do not fit.
    Source: Karras et al., CVPR 2020 (appendix D: schedule, jitter, noise maps). Differs: latents move in the
    prior's standard deviations, w+ is free by layer, other features, several starts.
    """
    _check(generator, space, steps=steps, n_restarts=n_restarts, batch_size=batch_size)
    pictures = check_pictures(image)
    wanted = resize(pictures.to(next(generator.parameters())), size=generator.image_size)
    n = len(wanted)
    labels = generator.check_labels(labels, n)
    prior = LatentPrior(generator, space, labels=labels, seed=seed)
    first = None if start is None else prior.coordinates(_start(generator, start, space=space, n=n))
    task = _Task(generator, prior, _distance(perceptual, generator), wanted, labels, seed)
    size = batch_size or max(1, min(32, 2**17 // generator.image_size**2))
    n_scout = math.ceil(_SCOUT * steps) if n_restarts > 1 else 0
    total = len(task.wanted) * (n_restarts * n_scout + steps - n_scout)
    with tqdm(total=total, desc=f"inverting {n} pictures", disable=not progress, unit="step") as bar:
        u = _best_start(task, first, n_restarts, n_scout, bar, size)
        rows = torch.arange(len(u)).split(size)
        found = [_descend(task, u[r], r, steps - n_scout, bar, optimise_noise=optimise_noise) for r in rows]
    u, images = torch.cat([part.u for part in found]), torch.cat([part.images for part in found])
    noise = [torch.cat(maps) for maps in zip(*(part.noise for part in found), strict=True)]
    return _judged(task, prior.latents(u), images, noise or None, shape=tuple(pictures.shape[-2:]))


def psnr(images: Tensor, wanted: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (n,) of pictures (n, 3, height, width) in 0 to 1, dB; infinite for equal ones."""
    return -10 * torch.log10((images - wanted).square().mean((1, 2, 3)))


def ssim(images: Tensor, wanted: Tensor) -> Tensor:
    """Structural similarity (n,) of pictures (n, 3, height, width) in 0 to 1; 1 for equal ones.

    Windows of 11 x 11 pixels, Gaussian of 1.5 pixels, inside the picture only; mean over places and channels.

    Raises ValueError for pictures smaller than a window.
    Source: Wang et al., IEEE TIP 2004.
    """
    if min(images.shape[-2:]) < 11:
        raise ValueError(f"SSIM needs pictures of 11 x 11 pixels or more; got {tuple(images.shape[-2:])}.")
    taps = torch.exp(-((torch.arange(11.0) - 5) ** 2) / (2 * 1.5**2)).to(images)
    taps = taps / taps.sum()

    def mean(x: Tensor) -> Tensor:
        x = F.conv2d(x.flatten(0, 1)[:, None], taps.view(1, 1, 11, 1))
        return F.conv2d(x, taps.view(1, 1, 1, 11)).reshape(
            *images.shape[:2], *(side - 10 for side in images.shape[2:])
        )

    a, b = mean(images), mean(wanted)
    var_a, var_b = mean(images.square()) - a * a, mean(wanted.square()) - b * b
    covariance = mean(images * wanted) - a * b
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * a * b + c1) * (2 * covariance + c2) / ((a * a + b * b + c1) * (var_a + var_b + c2))
    return similarity.mean((1, 2, 3))


def noise_penalty(noise: list[Tensor]) -> Tensor:
    """How much noise maps (n, 1, size, size) hold that is no noise (n,): neighbours that go together.

    The squared mean product of neighbours in both directions, summed over maps and over their halvings down
    to 8 pixels; near 0 for white noise.

    Source: Karras et al., CVPR 2020, appendix D.
    """
    total = torch.zeros(len(noise[0])).to(noise[0])
    for scale in noise:
        while True:
            for axis in (2, 3):
                total = total + (scale * scale.roll(1, dims=axis)).mean((1, 2, 3)).square()
            if scale.shape[-1] <= 8:
                break
            scale = F.avg_pool2d(scale, 2) * 2  # the mean of 4 has half the standard deviation
    return total


def check_pictures(image: Tensor) -> Tensor:
    """Pictures as (n, 3, height, width) float.

    Raises ValueError for another shape, none at all, or numbers outside 0 to 1.
    """
    images = torch.as_tensor(image)
    images = images[None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[1] != 3 or images.numel() == 0:
        raise ValueError(
            f"Pictures are (n, 3, height, width) or (3, height, width); got {tuple(image.shape)}."
        )
    if not images.is_floating_point():
        raise ValueError(f"Pictures are floats in 0 to 1; got {images.dtype}.")
    wrong = ~((images >= 0) & (images <= 1)).flatten(1).all(1)
    if wrong.any():
        i = int(wrong.nonzero()[0])
        low, high = images[i].min().item(), images[i].max().item()
        raise ValueError(f"Pictures lie in 0 to 1; picture {i} goes from {low:.3g} to {high:.3g}.")
    return images


# the search


@dataclass
class _Task:
    generator: Generator
    prior: LatentPrior
    distance: nn.Module
    wanted: Tensor
    labels: Tensor | None
    seed: int

    @torch.no_grad()
    def feature_distances(self, images: Tensor, others: Tensor) -> Tensor:
        """Between each picture and its counterpart, (n,)."""
        pairs = zip(images.split(8), others.split(8), strict=True)
        return torch.cat([self.distance(a, self.distance.prepare(b)) for a, b in pairs]).cpu()


@dataclass
class _Found:
    u: Tensor
    images: Tensor
    noise: list[Tensor]
    losses: Tensor


def _best_start(
    task: _Task, first: Tensor | None, n_restarts: int, steps: int, bar: tqdm, size: int
) -> Tensor:
    """For each picture the coordinates, of all its starts after some steps, whose loss is smallest."""
    n = len(task.wanted)
    u = _starts(task, first, n_restarts)  # (n, n_restarts, ...)
    if n_restarts == 1:
        return u[:, 0]
    rows = torch.arange(n).repeat_interleave(n_restarts)
    parts = zip(u.flatten(0, 1).split(size), rows.split(size), strict=True)
    found = [_descend(task, part, r, steps, bar) for part, r in parts]
    best = torch.cat([part.losses for part in found]).view(n, n_restarts).argmin(1)
    return torch.cat([part.u for part in found]).unflatten(0, (n, n_restarts))[torch.arange(n), best.cpu()]


def _starts(task: _Task, first: Tensor | None, n_restarts: int) -> Tensor:
    prior, n = task.prior, len(task.wanted)
    drawn = prior.draw(n * n_restarts, seed=task.seed + 2, space="z" if prior.space == "z" else "w")
    u = prior.coordinates(drawn)
    if prior.space == "w+":
        u = u[:, None].repeat(1, task.generator.n_layers, 1)
    u = u.unflatten(0, (n, n_restarts)).clone()
    if prior.space != "z":
        u[:, 0] = 0  # the mean
    if first is not None:
        u[: len(first), 0] = first
    return u


@torch.enable_grad()
def _descend(
    task: _Task, u: Tensor, rows: Tensor, steps: int, bar: tqdm, *, optimise_noise: bool = False
) -> _Found:
    """Adam from coordinates u towards the pictures `rows`, each with its own loss."""
    rng = torch.Generator().manual_seed(task.seed * 1_000_003 + int(rows[0]))
    u = u.clone().requires_grad_()
    sizes = task.generator.noise_sizes() if optimise_noise else ()
    noise = [torch.randn(len(u), 1, s, s, generator=rng).to(u).requires_grad_() for s in sizes]
    judge = _judge(task, rows)
    learning_rate = _LEARNING_RATE[task.prior.space]
    optimizer = torch.optim.Adam([u, *noise], lr=learning_rate)
    for step in range(steps):
        t = step / steps
        optimizer.param_groups[0]["lr"] = learning_rate * _ramp(t)
        jitter = _JITTER * max(0.0, 1 - t / 0.75) ** 2
        losses, _ = judge(u + jitter * torch.randn(u.shape, generator=rng).to(u), noise)
        # not backward(): the generator's weights get no gradients
        for tensor, gradient in zip([u, *noise], torch.autograd.grad(losses.sum(), [u, *noise]), strict=True):
            tensor.grad = gradient
        optimizer.step()
        with torch.no_grad():
            for scale in noise:
                scale -= scale.mean((2, 3), keepdim=True)
                scale *= scale.square().mean((2, 3), keepdim=True).rsqrt()
        bar.update(len(u))
    with torch.no_grad():
        losses, images = judge(u, noise)
    return _Found(u.detach(), images.clamp(0, 1), [scale.detach() for scale in noise], losses)


def _judge(task: _Task, rows: Tensor):
    """(coordinates, noise maps) -> losses (n,) and pictures (n, 3, height, width), not clipped."""
    wanted = task.wanted[rows]
    with torch.no_grad():
        prepared = task.distance.prepare(wanted)
    labels = None if task.labels is None or task.prior.space != "z" else task.labels[rows]

    def judge(u: Tensor, noise: list[Tensor]) -> tuple[Tensor, Tensor]:
        latents = task.prior.latents(u)
        raw = task.generator.raw_images(
            latents, space=task.prior.space, labels=labels, noise=noise or "const"
        )
        images = _clipped_where_wanted(raw * 0.5 + 0.5, wanted)
        losses = task.distance(images, prepared) + _PIXEL_WEIGHT * (images - wanted).square().mean((1, 2, 3))
        losses = losses + _PULL[task.prior.space] * task.prior.pull(u)
        return losses + _NOISE_WEIGHT * noise_penalty(noise) if noise else losses, images

    return judge


def _clipped_where_wanted(images: Tensor, wanted: Tensor) -> Tensor:
    """Clipped only where the wanted pixel lies at that end: elsewhere clipping would hide the error's gradient."""
    images = torch.where(wanted >= 1, images.clamp(max=1), images)
    return torch.where(wanted <= 0, images.clamp(min=0), images)


def _ramp(t: float) -> float:
    """Learning rate over its largest: up over 5 % of the way, down along a cosine over the last quarter."""
    return min(1.0, t / 0.05 + 1e-2) * (0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / 0.25)))


# around it


def _judged(
    task: _Task,
    latents: Tensor,
    images: Tensor,
    noise: list[Tensor] | None,
    *,
    shape: tuple[int, int],
) -> Inversion:
    """The pictures with their errors, and what a reader must know of each."""
    distances, strangers = task.feature_distances(images, task.wanted).numpy(), _between_samples(task)
    size = task.generator.image_size
    scores = psnr(images, task.wanted).cpu().numpy()
    likeness = ssim(images, task.wanted).cpu().numpy() if size >= 11 else np.full(len(images), np.nan)
    off_prior = task.prior.distance(latents)
    warnings = []
    for score, distance, off in zip(scores, distances, off_prior, strict=True):
        found = list(_quality_warnings(task.generator.name, score, distance, strangers))
        low, high = task.prior.range
        if not low <= off <= high:
            found.append(
                f"The latent lies off the prior: distance {off:.1f}, samples {low:.1f} to {high:.1f}; edits of it "
                "may not look like edits of samples."
            )
        if shape != (size, size):
            found.append(f"The picture was scaled from {shape[0]} x {shape[1]} to {size} x {size} pixels.")
        warnings.append(tuple(found))
    return Inversion(
        latents, images, noise, scores, likeness, distances, off_prior, task.prior.range, warnings
    )


def _quality_warnings(name: str, score: float, distance: float, strangers: float) -> Iterator[str]:
    if score < POOR_PSNR:
        yield f"{name} cannot make this picture: {score:.1f} dB, below {POOR_PSNR:.0f} dB."
    if distance > POOR_DISTANCE * strangers:
        yield (
            f"{name} cannot make this picture: feature distance {distance:.3f}, where two different samples of "
            f"it are {strangers:.3f} apart."
        )


def _between_samples(task: _Task) -> float:
    """Median feature distance between two different samples of the generator, over 12 pairs."""
    n = 24
    labels = task.prior.cycled_labels(n)
    space = "z" if task.prior.space == "z" else "w"
    latents = task.generator.sample(n, space=space, labels=labels, seed=task.seed + 3)
    shown = labels if space == "z" else None
    images = torch.cat(
        list(task.generator.synthesize_batches(latents, space=space, labels=shown, batch_size=4))
    )
    return float(task.feature_distances(images[: n // 2], images[n // 2 :]).median())


def _start(generator: Generator, start: Tensor, *, space: str, n: int) -> Tensor:
    start = torch.as_tensor(start)
    if space == "w+" and start.ndim == 2:
        start = generator.check_latents(start, space="w")[:, None].repeat(1, generator.n_layers, 1)
    start = generator.check_latents(start, space=space)
    if len(start) != n:
        raise ValueError(f"Need one start for each of {n} pictures; got {len(start)}.")
    return start


def _distance(perceptual: str | nn.Module, generator: Generator) -> nn.Module:
    made = make_distance(perceptual) if isinstance(perceptual, str) else perceptual
    return made.to(next(generator.parameters()))


def _check(generator: Generator, space: str, *, steps: int, n_restarts: int, batch_size: int | None) -> None:
    generator.latent_shape(space)
    if space not in SPACES:
        raise ValueError(f"Pictures are inverted into 'z', 'w' or 'w+'; got {space!r}.")
    least = {"steps": (steps, 1), "n_restarts": (n_restarts, 1)}
    if batch_size is not None:
        least["batch_size"] = (batch_size, 1)
    for name, (value, lowest) in least.items():
        if value < lowest:
            raise ValueError(f"{name} must be {lowest} or more; got {value}.")
