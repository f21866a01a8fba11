"""Which part of a picture a score depends on, from its gradient: for scores that torch can differentiate."""

import contextlib
import logging
from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from saliency.fills import Fill, fill_picture
from saliency.scores import Score, check_count, check_mode, check_picture, check_steady, evaluate, pick

logger = logging.getLogger(__name__)


def gradient_map(
    score: Score,
    image: torch.Tensor,
    *,
    method: str = "integrated_gradients",
    baseline: Fill = 0.0,
    n_steps: int = 50,
    noise: float = 0.15,
    n_samples: int = 50,
    layer: nn.Module | str | None = None,
    relu: bool = True,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = False,
) -> torch.Tensor:
    """What each pixel adds to the score, or how the score answers to it, by the score's gradient.

    score : pictures (n, 3, h, w) to (n,) or (n, k), differentiable in the pictures
    image : (3, h, w), float, 0 to 1
    method : "integrated_gradients": a map in units of the score that sums to score(image) - score(baseline),
        each pixel's three channels added up;
        "smoothgrad": the mean gradient over noisy copies of the picture, in units of the score per unit of
        brightness; of each pixel's channels the one with the largest magnitude, with its sign;
        "gradcam": a layer's maps weighted by their mean gradients, bilinear at the picture's size; in units of
        the score as far as the score is linear in the layer
    baseline : integrated gradients only: the picture without information, as in `fill_patches` but not
        "inpaint"; the Gaussian of "blur" has a deviation of a tenth of the shorter side. Pixels that equal
        the baseline get 0, so black says nothing of black parts of the picture
    n_steps : integrated gradients only: Gauss-Legendre points on the way from the baseline
    noise : SmoothGrad only: deviation of the noise, 0 to 1 being the picture's range; copies are not clipped
    n_samples : SmoothGrad only: noisy copies
    layer : Grad-CAM only: a module that the score uses once, or its dotted name inside the score, whose
        output is (n, c, h, w); None: the last one, for convolutional scores
    relu : Grad-CAM only: keep what raises the score alone, as published; False: signed
    batch_size : pictures given to the score at a time
    seed : of SmoothGrad's noise and of the baseline "noise"

    Returns (h, w) for a score (n,), (k, h, w) for (n, k), also if k = 1, on the picture's device.
    Raises ValueError for a picture, setting or layer that does not fit and for a score without a gradient.
    Source: Sundararajan et al., ICML 2017; Smilkov et al., arXiv 1706.03825; Selvaraju et al., ICCV 2017.
    Differs: SmoothGrad keeps the sign; its noise is a share of the full range and not of the picture's own.
    """
    check_picture(image)
    _check_settings(method=method, layer=layer, noise=noise)
    for name, value in {"n_steps": n_steps, "n_samples": n_samples, "batch_size": batch_size}.items():
        check_count(name, value)
    check_mode(score)
    gradient = _Gradient(score, image.detach(), batch_size=batch_size, progress=progress)
    check_steady(score, gradient.image[None], gradient.clean)
    settings = {"baseline": baseline, "n_steps": n_steps, "noise": noise, "n_samples": n_samples}
    heat = _METHODS[method](gradient, **settings, layer=layer, relu=relu, seed=seed)
    bad = int((~torch.isfinite(heat)).sum())
    if bad:
        raise ValueError(f"Need finite gradients, {bad} of {heat.numel()} values are NaN or infinite.")
    if not bool(heat.any()):
        logger.warning("The map by %s is 0 everywhere.", method)
    heat = heat.to(torch.promote_types(gradient.clean.dtype, torch.float32))
    return heat if gradient.clean.ndim == 2 else heat[0]


class _Gradient:
    """The gradient of a score's k values in the pictures around one picture."""

    def __init__(self, score: Score, image: torch.Tensor, *, batch_size: int, progress: bool) -> None:
        self.score, self.image = score, image
        self.batch_size, self.progress = batch_size, progress
        self.clean = self.value(image)

    def value(self, picture: torch.Tensor) -> torch.Tensor:
        """(1,) or (1, k)"""
        with torch.no_grad():
            return evaluate(self.score, picture[None])

    def mean(self, pictures: Iterator[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
        """Sum over pictures (3, h, w) of weight times gradient: (k, 3, h, w)."""
        dtype = torch.promote_types(self.image.dtype, torch.float32)
        shares = weights.to(dtype).to(self.image.device).split(self.batch_size)
        total: torch.Tensor | float = 0.0
        with _recording():
            for share in tqdm(shares, "gradients", disable=not self.progress, unit="batch"):
                batch = torch.stack(list(islice(pictures, len(share)))).requires_grad_(True)
                slopes = _differentiate(evaluate(self.score, batch, like=self.clean), batch)
                total = total + torch.einsum("n,knchw->kchw", share, slopes.to(dtype))
        return total


def _integrated_gradients(
    gradient: _Gradient, *, baseline: Fill, n_steps: int, seed: int, **_unused: object
) -> torch.Tensor:
    image = gradient.image
    start = fill_picture(image, fill=baseline, sigma=min(image.shape[1:]) / 10, seed=seed)
    places, weights = np.polynomial.legendre.leggauss(n_steps)  # on -1 to 1
    path = (torch.lerp(start, image, (place + 1) / 2) for place in places)
    slopes = gradient.mean(path, torch.from_numpy(weights / 2))
    heat = ((image - start) * slopes).sum(1)
    ends = torch.cat([gradient.clean, gradient.value(start)]).reshape(2, -1).cpu().double()
    _warn_if_incomplete(heat.cpu().double(), *ends)
    return heat


def _smoothgrad(
    gradient: _Gradient, *, noise: float, n_samples: int, seed: int, **_unused: object
) -> torch.Tensor:
    image, generator = gradient.image, torch.Generator().manual_seed(seed)
    copies = (
        image + noise * torch.randn(image.shape, generator=generator).to(image) for _ in range(n_samples)
    )
    slopes = gradient.mean(copies, torch.full((n_samples,), 1 / n_samples))
    strongest = slopes.abs().argmax(1, keepdim=True)
    return slopes.gather(1, strongest)[:, 0]


def _gradcam(
    gradient: _Gradient, *, layer: nn.Module | str | None, relu: bool, **_unused: object
) -> torch.Tensor:
    module = _find_layer(gradient, layer)
    outputs: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: object) -> torch.Tensor:
        _check_maps(output, gradient.image)
        outputs.append(output.detach().requires_grad_(True))
        return outputs[-1].clone()  # what comes next may work in place

    handle = module.register_forward_hook(keep)
    try:
        with _recording():
            values = evaluate(gradient.score, gradient.image.clone()[None], like=gradient.clean)
            if len(outputs) != 1:
                raise ValueError(f"Need a layer that the score uses once, it is used {len(outputs)} times.")
            slopes = _differentiate(values, outputs[0])[:, 0]  # (k, c, rows, columns)
    finally:
        handle.remove()
    maps = (slopes.mean((2, 3), keepdim=True) * outputs[0].detach()).sum(1, keepdim=True)
    maps = maps.clamp(min=0) if relu else maps
    return F.interpolate(maps, size=gradient.image.shape[1:], mode="bilinear", align_corners=False)[:, 0]


def _differentiate(values: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Gradient of each score, summed over the batch, in the inputs: (k, *inputs.shape)."""
    columns = values.reshape(len(values), -1).sum(0)  # (k,)
    if columns.requires_grad:
        slopes = [
            torch.autograd.grad(column, inputs, retain_graph=True, allow_unused=True)[0] for column in columns
        ]
        if all(slope is not None for slope in slopes):
            return torch.stack(slopes)
    raise ValueError(
        "Need a score with a gradient in the picture, this one has none (is it computed under no_grad, in numpy "
        "or from a detached tensor?); use occlusion_map or rise_map."
    )


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    """Gradients are recorded, also where the caller has switched them off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _warn_if_incomplete(heat: torch.Tensor, clean: torch.Tensor, begun: torch.Tensor) -> None:
    change = clean - begun
    gap = (heat.sum((1, 2)) - change).abs()
    rounding = 1e-5 * heat.abs().sum((1, 2)) + 1e-6 * clean.abs()
    worst = int((gap - 0.01 * change.abs() - rounding).argmax())
    if gap[worst] > 0.01 * change[worst].abs() + rounding[worst]:
        logger.warning(
            "Integrated gradients miss %.3g of the score's change %.3g; raise n_steps.",
            gap[worst],
            change[worst],
        )


def _find_layer(gradient: _Gradient, layer: nn.Module | str | None) -> nn.Module:
    if isinstance(layer, nn.Module):
        return _with_channels_first(layer)
    if not isinstance(gradient.score, nn.Module):
        kind = type(gradient.score).__name__
        raise ValueError(f"Need the layer itself as a module, the score is a {kind}; got layer={layer!r}.")
    modules = {name: module for name, module in gradient.score.named_modules() if name}
    if layer is not None:
        return _with_channels_first(pick("layer", layer, modules))
    return _last_maps(gradient, modules)


def _with_channels_first(layer: nn.Module) -> nn.Module:
    if isinstance(layer, _CHANNELS_LAST):
        kind = type(layer).__name__
        raise ValueError(f"Need a layer that gives maps (n, c, h, w); a {kind} has its channels last.")
    return layer


def _last_maps(gradient: _Gradient, modules: dict[str, nn.Module]) -> nn.Module:
    """The module that gives the last maps (n, c, h > 1, w > 1) of one pass and is used once in it."""
    calls: list[tuple[str, tuple[int, ...]]] = []

    def note(name: str, output: object) -> None:
        calls.append((name, tuple(output.shape) if isinstance(output, torch.Tensor) else ()))

    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: note(name, output))
        for name, module in modules.items()
        if not isinstance(module, _NO_MAPS)
    ]
    try:
        gradient.value(gradient.image)
    finally:
        for handle in handles:
            handle.remove()
    size = gradient.image.shape[1:]
    names = [name for name, _ in calls]
    found = [
        i
        for i, (name, shape) in enumerate(calls)
        if _are_maps(shape, size) and names.count(name) == 1 and not isinstance(modules[name], _CHANNELS_LAST)
    ]
    if not found or any(len(shape) == 3 for _, shape in calls[found[-1] + 1 :]):
        reason = "it goes on with tokens" if found else "no module of it gives maps (n, c, h, w)"
        raise ValueError(
            f"Need a layer for Grad-CAM of this score, {reason}; pass layer= or take another method."
        )
    logger.info("Grad-CAM of layer %r.", names[found[-1]])
    return modules[names[found[-1]]]


def _are_maps(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether an output has the shape of maps of such a picture; (n, h, w, c) and attention's mostly do not."""
    if len(shape) != 4 or min(shape[2:]) < 2:
        return False
    height, width = shape[2] / size[0], shape[3] / size[1]
    return max(height, width) <= 1 and 2 / 3 <= height / width <= 3 / 2


def _check_maps(output: object, image: torch.Tensor) -> None:
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    height, width = image.shape[1:]
    if isinstance(shape, str) or not _are_maps(shape, (height, width)):
        raise ValueError(
            f"Need a layer that gives maps (n, c, h, w) of 2 x 2 up to the picture's {height} x {width}, "
            f"it gives {shape}."
        )


def _check_settings(*, method: str, layer: nn.Module | str | None, noise: float) -> None:
    pick("method", method, _METHODS)
    if layer is not None and method != "gradcam":
        raise ValueError(f"Need method='gradcam' for a layer, got {method!r}.")
    if layer is not None and not isinstance(layer, nn.Module | str):
        raise TypeError(f"Need the layer as a module or its name, got {type(layer).__name__}.")
    if not 0 <= noise < float("inf"):
        raise ValueError(f"Need noise of a deviation of 0 or more, got {noise}.")


_METHODS = {"integrated_gradients": _integrated_gradients, "smoothgrad": _smoothgrad, "gradcam": _gradcam}
_NO_MAPS = (nn.modules.dropout._DropoutNd, nn.Softmax, nn.Identity)  # heads x tokens often pass through these
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)
