"""Gradient maps side by side with a loop of plain torch: EfficientNet-Lite0 at 224 px, what captum costs for k scores.

captum goes through the network once for each score; the loop goes through it once and back k times. Both map the
same picture with the same steps and noise, one after the other, on one thread; times are processor times, which
other work on the machine changes little. The figure is the median of the rounds' ratios. With 4 steps, the passes
beside the steps (the clean picture, both ends of the way) weigh more than with the 50 of `gradient_map`. Needs no
data.
"""

import logging
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from occlusion_speed import Epochs, Network, picture
from real_p300 import arguments, print_table, write_results
from torch import Tensor, nn
from torch.nn import functional as F

from saliency.gradients import gradient_map

N, BATCH, NOISE = 4, 4, 0.15
LAYER = "network._bn1"
COUNTS = {"integrated_gradients": (1, 10), "smoothgrad": (1, 10), "gradcam": (1, 10, 100)}


def loop_integrated_gradients(score: Epochs, image: Tensor) -> Tensor:
    """From black, (k, 224, 224)."""
    places, weights = np.polynomial.legendre.leggauss(N)
    path = torch.stack([image * (place + 1) / 2 for place in places])
    return (image * mean_slope(score, path, torch.tensor(weights / 2).float())).sum(1)


def loop_smoothgrad(score: Epochs, image: Tensor) -> Tensor:
    """(k, 224, 224)"""
    noise = torch.randn(N, *image.shape, generator=torch.Generator().manual_seed(0))
    slopes = mean_slope(score, image + NOISE * noise, torch.full((N,), 1 / N))
    return slopes.gather(1, slopes.abs().argmax(1, keepdim=True))[:, 0]


def loop_gradcam(score: Epochs, image: Tensor) -> Tensor:
    """Of what goes into the last activation, signed, (k, 224, 224)."""
    outputs = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        outputs.append(output)
        return output.clone()  # the activation works in place

    handle = score.get_submodule(LAYER).register_forward_hook(keep)
    values = score(image[None])[0]
    handle.remove()
    slopes = torch.stack([torch.autograd.grad(v, outputs, retain_graph=True)[0][0] for v in values])
    maps = (slopes.mean((2, 3), keepdim=True) * outputs[0].detach()).sum(1, keepdim=True)
    return F.interpolate(maps, size=image.shape[1:], mode="bilinear")[:, 0]


def mean_slope(score: Epochs, pictures: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over pictures of each score's gradient, (k, 3, 224, 224)."""
    total = 0.0
    for batch, share in zip(pictures.split(BATCH), weights.split(BATCH), strict=True):
        batch = batch.clone().requires_grad_(True)
        values = score(batch).sum(0)
        slopes = torch.stack([torch.autograd.grad(v, batch, retain_graph=True)[0] for v in values])
        total = total + torch.einsum("n,knchw->kchw", share, slopes)
    return total


def compare(score: Epochs, method: str, n_rounds: int) -> dict:
    """Times and ratios of paired rounds, and how far the maps differ."""
    settings = {"method": method, "n_steps": N, "n_samples": N, "noise": NOISE, "batch_size": BATCH}
    if method == "gradcam":
        settings |= {"layer": LAYER, "relu": False}
    jobs = (partial(LOOPS[method], score), partial(gradient_map, score, **settings))
    score(picture(0)[None])
    loop, captum, differences = [], [], []
    for seed in range(n_rounds):
        order = (0, 1) if seed % 2 else (1, 0)
        done = {i: seconds(partial(jobs[i], picture(seed))) for i in order}
        loop.append(done[0][0]), captum.append(done[1][0])
        difference = (done[0][1] - done[1][1]).abs().mean() / done[0][1].abs().mean()
        differences.append(difference.item())
    ratios = np.divide(captum, loop)
    return {
        "loop, s": float(np.median(loop)),
        "captum, s": float(np.median(captum)),
        "captum / loop, median of rounds": float(np.median(ratios)),
        "lowest": float(ratios.min()),
        "highest": float(ratios.max()),
        "mean difference / mean value, largest": max(differences),
    }


def seconds(job: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Processor time and what the job gives."""
    start = time.process_time()
    value = job()
    return time.process_time() - start, value


LOOPS = {
    "integrated_gradients": loop_integrated_gradients,
    "smoothgrad": loop_smoothgrad,
    "gradcam": loop_gradcam,
}


def main() -> None:
    """Measure, print, write the JSON file."""
    parser = arguments(__doc__.splitlines()[0], "gradient_speed")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("saliency").setLevel(logging.ERROR)  # a few steps miss the score's change
    network, results = Network(), {}
    for method, counts in COUNTS.items():
        for k in counts:
            results[f"{method}, k = {k}"] = compare(Epochs(network, k).eval(), method, options.rounds)
            print_table(f"{method}, k = {k}", results[f"{method}, k = {k}"])
    write_results(options.out, "gradient_speed", results)


if __name__ == "__main__":
    main()
