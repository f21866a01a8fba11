"""StyleGAN2 without gradients: our forward pass against the plain formulation, one picture at a time on a CPU.

The plain formulation follows the public description of the reference with its custom operations off: weights are
modulated for each sample and convolved with one group per sample; upsampling is a transposed convolution of stride
2 and then zero insertion, padding and a depthwise 4 x 4 filter; bias, noise, activation and clamp are operations
of their own; channels come first in memory. Both take turns in one process, as machines are rarely quiet.
Needs no data. With a GPU also batches of 8 in float16, and what reduced precision costs.
"""

import argparse
import copy
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from brainedit.generators.modulated import StyledConv, ToRGB
from brainedit.generators.stylegan2 import StyleGAN2

NETWORKS = {"1024": (1024, 32768), "256": (256, 32768), "256 narrow": (256, 16384)}  # pixels, channel_base
AT_LEAST = {"1024": 2.0, "256": 1.1, "256 narrow": 1.1}
MOST_MEMORY = 1.5  # GiB, of our pass at 1024 pixels
BATCH_ON_GPU = 8


def plain_images(generator: StyleGAN2, w_plus: Tensor) -> Tensor:
    """w+ (n, n_layers, w_dim) -> pictures (n, 3, height, width) by the plain formulation, constant noise."""
    x = image = None
    for i, block in enumerate(generator.synthesis.values()):
        w = w_plus[:, max(2 * i - 1, 0) : 2 * i + 2].float()
        if x is None:
            x = block.const[None].repeat(len(w), 1, 1, 1)
        else:
            x = plain_layer(block.conv0, x, w[:, 0])
        x = plain_layer(block.conv1, x, w[:, -2])
        rgb = plain_rgb(block.torgb, x, w[:, -1])
        if image is not None:
            image = upfirdn(image, block.resample_filter, up=2, padding=[2, 1, 2, 1])
        image = rgb if image is None else image.add_(rgb)
    return image


def plain_layer(layer: StyledConv, x: Tensor, w: Tensor) -> Tensor:
    x = plain_modulated(x, layer.weight, layer.affine(w), up=layer.up, fir=layer.resample_filter, padding=1)
    x = x.add_(layer.noise_const * layer.noise_strength)
    x = x + layer.bias[:, None, None]
    x = F.leaky_relu(x, 0.2)
    x = x * math.sqrt(2)
    return x if layer.clamp is None else x.clamp(-layer.clamp, layer.clamp)


def plain_rgb(layer: ToRGB, x: Tensor, w: Tensor) -> Tensor:
    style = layer.affine(w) / math.sqrt(x.shape[1])
    x = plain_modulated(x, layer.weight, style, demodulate=False) + layer.bias[:, None, None]
    return (x if layer.clamp is None else x.clamp(-layer.clamp, layer.clamp)).float()


def plain_modulated(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    *,
    up: bool = False,
    fir: Tensor | None = None,
    padding: int = 0,
    demodulate: bool = True,
) -> Tensor:
    n, (n_out, n_in, *kernel) = len(x), weight.shape
    weight = weight.to(style.dtype)
    if x.dtype == torch.float16 and demodulate:
        weight = weight / (weight.abs().amax((1, 2, 3), keepdim=True) * math.sqrt(weight[0].numel()))
        style = style / style.abs().amax(1, keepdim=True)
    weight = weight[None] * style[:, None, :, None, None]
    if demodulate:
        weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    weight = weight.to(x.dtype)
    x = x.reshape(1, n * n_in, *x.shape[2:])
    if up:
        weight = weight.transpose(1, 2).reshape(n * n_in, n_out, *kernel)
        x = F.conv_transpose2d(x, weight, stride=2, groups=n)
        x = upfirdn(x, fir, up=1, padding=[1, 1, 1, 1], gain=4)
    else:
        x = F.conv2d(x, weight.reshape(n * n_out, n_in, *kernel), padding=padding, groups=n)
    return x.reshape(n, n_out, *x.shape[2:])


def upfirdn(x: Tensor, fir: Tensor, *, up: int, padding: list[int], gain: float = 4) -> Tensor:
    """Zeros between the pixels, a border, and the filter on each channel."""
    n, n_channels, height, width = x.shape
    x = F.pad(x.reshape(n, n_channels, height, 1, width, 1), [0, up - 1, 0, 0, 0, up - 1])
    x = F.pad(x.reshape(n, n_channels, height * up, width * up), padding)
    taps = (fir * gain).flip([0, 1])[None, None].repeat(n_channels, 1, 1, 1).to(x.dtype)
    return F.conv2d(x, taps, groups=n_channels)


def network(size: int, base: int, *, device: str = "cpu") -> StyleGAN2:
    """Random weights with noise and clamp as in trained networks."""
    settings = {"channel_base": base, "channel_max": 512, "conv_clamp": 256}
    generator = StyleGAN2(z_dim=512, w_dim=512, img_resolution=size, synthesis_kwargs=settings)
    for name, tensor in generator.state_dict().items():
        if name.endswith("noise_strength"):
            tensor.fill_(0.1)
    return generator.to(device).eval().requires_grad_(False)


def channels_first(generator: StyleGAN2) -> StyleGAN2:
    """A copy with its filters in memory as the plain formulation has them."""
    plain = copy.deepcopy(generator)
    for weight in plain.parameters():
        weight.data = weight.data.contiguous()
    return plain


def in_turn(passes: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, np.ndarray]:
    """Wall and processor seconds (rounds, 2) of each, after one round to warm up."""
    seconds: dict[str, list] = {name: [] for name in passes}
    for _ in range(rounds + 1):
        for name, run in passes.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {name: np.array(values[1:]) for name, values in seconds.items()}


def compare(plain: Callable[[], Tensor], ours: Callable[[], Tensor], rounds: int) -> dict:
    """Medians, their ratio, quartiles of the rounds' ratios, and the largest difference in SD of the picture."""
    wanted = plain()
    difference = ((ours() - wanted).abs().max() / wanted.std()).item()
    seconds = in_turn({"plain": plain, "ours": ours}, rounds)
    rows: dict = {"max_difference_sd": difference, "rounds": rounds}
    for column, clock in enumerate(("wall", "processor")):
        one, other = seconds["plain"][:, column], seconds["ours"][:, column]
        rows[clock] = {
            "plain_s": np.median(one),
            "ours_s": np.median(other),
            "ratio": np.median(one) / np.median(other),
            "ratio_quartiles": np.percentile(one / other, [25, 75]).tolist(),
        }
    return rows


def on_cpu(name: str, rounds: int) -> dict:
    generator = network(*NETWORKS[name])
    w_plus = generator.sample(1, space="w+")
    plain = channels_first(generator)
    rows = compare(
        lambda: plain_images(plain, w_plus), lambda: generator.raw_images(w_plus, space="w+"), rounds
    )
    rows["million_parameters"] = sum(weight.numel() for weight in generator.parameters()) / 1e6
    print(f"\n{name}: {rows['million_parameters']:.1f} M parameters, {rounds} rounds, seconds a picture")
    for clock in ("wall", "processor"):
        row = rows[clock]
        low, high = row["ratio_quartiles"]
        print(
            f"  {clock:<9}  plain {row['plain_s']:.3f}  ours {row['ours_s']:.3f}  "
            f"ratio {row['ratio']:.2f} (quartiles {low:.2f}, {high:.2f}; needs {AT_LEAST[name]})"
        )
    print(f"  largest difference {rows['max_difference_sd']:.1e} SD")
    return rows


def on_gpu(rounds: int) -> dict:
    """Pictures a second at 1024 pixels in float16, and the errors of float16 and bfloat16 against float32."""
    generator = network(*NETWORKS["1024"], device="cuda")
    w_plus = generator.sample(BATCH_ON_GPU, space="w+")
    exact = generator.raw_images(w_plus, space="w+")
    rows: dict = {"device": torch.cuda.get_device_name()}
    for dtype in (torch.float16, torch.bfloat16):
        rounded = copy.deepcopy(generator).to(dtype)
        error = rounded.raw_images(w_plus, space="w+") - exact
        rows[str(dtype)] = {
            "max_error_sd": (error.abs().max() / exact.std()).item(),
            "rms_error_sd": (error.square().mean().sqrt() / exact.std()).item(),
        }
    half = copy.deepcopy(generator).half()
    plain = channels_first(half)
    seconds = in_turn(
        {
            "plain": lambda: plain_images(plain, w_plus),
            "ours": lambda: half.raw_images(w_plus, space="w+"),
        },
        rounds,
    )
    for name, values in seconds.items():
        rows[f"{name}_images_per_s"] = BATCH_ON_GPU / np.median(values[:, 0])
    rows["ratio"] = rows["ours_images_per_s"] / rows["plain_images_per_s"]
    print(f"\nGPU, batch {BATCH_ON_GPU}, 1024 pixels, float16: {json.dumps(rows, indent=1)}")
    return rows


def peak_memory() -> float | None:
    """GiB that a fresh process needs at most to build the 1024-pixel network and draw a picture; Linux only."""
    command = [sys.executable, __file__, "--memory-only", "--threads", str(torch.get_num_threads())]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def own_peak_memory() -> float | None:
    generator = network(*NETWORKS["1024"])
    generator.raw_images(generator.sample(1, space="w+"), space="w+")
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def matrix_products() -> float:
    """GFLOP/s of dense float32 products, to compare machines by."""
    a = torch.randn(2048, 2048)
    seconds = in_turn({"product": lambda: a @ a}, 9)["product"][:, 0]
    return 2 * 2048**3 / np.median(seconds) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="results/generator_forward", help="folder for the JSON file")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=NETWORKS, help="one network instead of all")
    parser.add_argument("--memory-only", action="store_true", help="print our peak memory in GiB and stop")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_grad_enabled(False)
    if given.memory_only:
        print(json.dumps(own_peak_memory()))
        return
    results: dict = {"torch": torch.__version__, "threads": given.threads}
    results["matrix_products_gflops"] = matrix_products()
    print(f"{given.threads} threads, dense products {results['matrix_products_gflops']:.0f} GFLOP/s")
    results["peak_memory_gib"] = peak_memory()
    print(
        f"peak memory of a process at 1024 pixels: {results['peak_memory_gib']} GiB (at most {MOST_MEMORY})"
    )
    for name in [given.only] if given.only else NETWORKS:
        results[name] = on_cpu(name, given.rounds)
    if torch.cuda.is_available():
        results["gpu"] = on_gpu(given.rounds)
    path = Path(given.out) / "generator_forward.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\nWritten to {path}")


if __name__ == "__main__":
    main()
