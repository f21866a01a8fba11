"""Which part of a picture a score depends on, from its gradient: for scores that torch can differentiate."""

import contextlib
import logging
from collections.abc import Iterator

import torch
from torch import nn
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
    """What each pixel adds to the score, or how the score answers to it, by the score's gradient through captum.

    score : pictures (n, 3, h, w) to (n,) or (n, k), differentiable in the pictures; k scores cost k times one
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
    n_samples : SmoothGrad only: noisy copies, the same for each of k scores
    layer : Grad-CAM only: a module that the score uses once, or its dotted name inside the score, whose
        output is (n, c, h, w); None: the last one, for convolutional scores
    relu : Grad-CAM only: keep what raises the score alone, as published; False: signed
    batch_size : pictures given to the score at a time
    seed : of SmoothGrad's noise and of the baseline "noise"; the same on every device. Where 3 h w is no multiple
        of 16, SmoothGrad's noise depends on batch_size too

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
    n_pictures = {"integrated_gradients": n_steps, "smoothgrad": n_samples, "gradcam": 1}[method]
    settings = {"baseline": baseline, "n_steps": n_steps, "noise": noise, "n_samples": n_samples}
    with _recording():
        scored = _Scored(score, image.detach().clone(), batch_size=batch_size)
        total = n_pictures * len(scored.targets)
        with tqdm(desc="gradients", total=total, disable=not progress, unit="picture") as scored.bar:
            heat = _METHODS[method](scored, **settings, layer=layer, relu=relu, seed=seed).detach()
    bad = int((~torch.isfinite(heat)).sum())
    if bad:
        raise ValueError(f"Need finite gradients, {bad} of {heat.numel()} values are NaN or infinite.")
    if not bool(heat.any()):
        logger.warning("The map by %s is 0 everywhere.", method)
    heat = heat.to(image.device, torch.promote_types(scored.clean.dtype, torch.float32))
    return heat if scored.clean.ndim == 2 else heat[0]


class _Scored:
    """A score as captum takes it: pictures (n, 3, h, w) to (n, k), a target for each column.

    captum draws noise where its picture is, so picture and values are on the CPU: a seed gives the same noise on
    every device. The score itself has them on its own.
    """

    def __init__(self, score: Score, image: torch.Tensor, *, batch_size: int) -> None:
        self.score, self.image, self.batch_size = score, image, batch_size
        with torch.no_grad():
            self.clean = evaluate(score, image[None])
            check_steady(score, image[None], self.clean)
        self.targets = list(range(self.clean.numel()))
        self.picture = image[None].cpu().to(torch.promote_types(image.dtype, torch.float32))
        self.bar = tqdm(disable=True)

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        values = evaluate(self.score, pictures.to(self.image), like=self.clean)
        if torch.is_grad_enabled():  # not where captum compares the sum with the score's change
            self.bar.update(len(pictures))
        return values.reshape(len(values), -1).cpu()


def _integrated_gradients(
    scored: _Scored, *, baseline: Fill, n_steps: int, seed: int, **_unused: object
) -> torch.Tensor:
    from captum.attr import IntegratedGradients

    sigma = min(scored.image.shape[1:]) / 10
    start = fill_picture(scored.image, fill=baseline, sigma=sigma, seed=seed)[None].to(scored.picture)
    settings = {
        "n_steps": n_steps,
        "internal_batch_size": scored.batch_size,
        "return_convergence_delta": True,
    }
    attribute = IntegratedGradients(scored).attribute
    found = [attribute(scored.picture, start, target=target, **settings) for target in scored.targets]
    heat, gap = (torch.cat(each) for each in zip(*found, strict=True))
    heat = heat.sum(1)  # (k, h, w)
    _warn_if_incomplete(heat.double(), gap.double(), scored.clean.flatten().cpu().double())
    return heat


def _smoothgrad(
    scored: _Scored, *, noise: float, n_samples: int, seed: int, **_unused: object
) -> torch.Tensor:
    from captum.attr import NoiseTunnel, Saliency

    attribute = NoiseTunnel(Saliency(scored)).attribute
    settings = {"nt_samples": n_samples, "nt_samples_batch_size": scored.batch_size, "stdevs": float(noise)}
    found = []
    for target in scored.targets:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            found.append(attribute(scored.picture, target=target, abs=False, **settings))
    slopes = torch.cat(found)  # (k, 3, h, w)
    strongest = slopes.abs().argmax(1, keepdim=True)
    return slopes.gather(1, strongest)[:, 0]


def _gradcam(
    scored: _Scored, *, layer: nn.Module | str | None, relu: bool, **_unused: object
) -> torch.Tensor:
    from captum.attr import LayerAttribution, LayerGradCam

    method = LayerGradCam(scored, _find_layer(scored, layer))
    maps = []
    for start in range(0, len(scored.targets), scored.batch_size):
        targets = scored.targets[start : start + scored.batch_size]
        copies = scored.picture.expand(len(targets), -1, -1, -1)
        maps.append(method.attribute(copies, target=targets, relu_attributions=relu).detach())
    return LayerAttribution.interpolate(torch.cat(maps), tuple(scored.image.shape[1:]), "bilinear")[:, 0]


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    """Gradients are recorded, also where the caller has switched them off; says so where there are none."""
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    except RuntimeError as error:
        if not any(words in str(error) for words in _NO_GRADIENT):
            raise
        raise ValueError(
            "Need a score with a gradient in the picture, this one has none (is it computed under no_grad, in "
            "numpy or from a detached tensor?); use occlusion_map or rise_map."
        ) from error


def _warn_if_incomplete(heat: torch.Tensor, gap: torch.Tensor, clean: torch.Tensor) -> None:
    """gap : (k,), how much the maps' sums exceed the score's changes"""
    change, gap = heat.sum((1, 2)) - gap, gap.abs()
    rounding = 1e-5 * heat.abs().sum((1, 2)) + 1e-6 * clean.abs()
    worst = int((gap - 0.01 * change.abs() - rounding).argmax())
    if gap[worst] > 0.01 * change[worst].abs() + rounding[worst]:
        logger.warning(
            "Integrated gradients miss %.3g of the score's change %.3g; raise n_steps.",
            gap[worst],
            change[worst],
        )


def _find_layer(scored: _Scored, layer: nn.Module | str | None) -> nn.Module:
    """The module asked for, or the last that gives maps; it gives maps (n, c, h, w) once in a pass."""
    if isinstance(layer, nn.Module):
        modules, name = {"": layer}, ""
    elif isinstance(scored.score, nn.Module):
        modules = {name: module for name, module in scored.score.named_modules() if name}
        name = layer
    else:
        kind = type(scored.score).__name__
        raise ValueError(f"Need the layer itself as a module, the score is a {kind}; got layer={layer!r}.")
    if name is None:
        return _last_maps(scored, modules)
    module = pick("layer", name, modules)
    if isinstance(module, _CHANNELS_LAST):
        kind = type(module).__name__
        raise ValueError(f"Need a layer that gives maps (n, c, h, w); a {kind} has its channels last.")
    _check_maps([shape for _, shape in _calls(scored, {name: module})], scored.image)
    return module


def _last_maps(scored: _Scored, modules: dict[str, nn.Module]) -> nn.Module:
    """The module that gives the last maps (n, c, h > 1, w > 1) of one pass and is used once in it."""
    calls = _calls(scored, {n: module for n, module in modules.items() if not isinstance(module, _NO_MAPS)})
    names, size = [name for name, _ in calls], scored.image.shape[1:]
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


def _calls(scored: _Scored, modules: dict[str, nn.Module]) -> list[tuple[str, tuple[int, ...]]]:
    """Each use of a module in one pass of one picture: its name and the shape that it gives, () for no tensor."""
    calls: list[tuple[str, tuple[int, ...]]] = []

    def note(name: str, output: object) -> None:
        calls.append((name, tuple(output.shape) if isinstance(output, torch.Tensor) else ()))

    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: note(name, output))
        for name, module in modules.items()
    ]
    try:
        with torch.no_grad():
            scored(scored.picture)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _are_maps(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether an output has the shape of maps of one such picture; (n, h, w, c) and attention's mostly do not."""
    if len(shape) != 4 or shape[0] != 1 or min(shape[2:]) < 2:
        return False
    height, width = shape[2] / size[0], shape[3] / size[1]
    return max(height, width) <= 1 and 2 / 3 <= height / width <= 3 / 2


def _check_maps(shapes: list[tuple[int, ...]], image: torch.Tensor) -> None:
    if len(shapes) != 1:
        raise ValueError(f"Need a layer that the score uses once, it is used {len(shapes)} times.")
    height, width = image.shape[1:]
    if not _are_maps(shapes[0], (height, width)):
        raise ValueError(
            f"Need a layer that gives maps (n, c, h, w) of 2 x 2 up to the picture's {height} x {width}, "
            f"it gives {shapes[0] or 'no tensor'}."
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
_NO_GRADIENT = ("does not require grad", "not have been used in the graph")  # what torch says
_NO_MAPS = (nn.modules.dropout._DropoutNd, nn.Softmax, nn.Identity)  # heads x tokens often pass through these
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)
