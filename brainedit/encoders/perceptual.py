"""How different two pictures look to a frozen network, by its features of several depths."""

import contextlib
import io
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainedit._check import pick
from brainedit.encoders.image import make_image_encoder

_BLOCKS = (1, 3, 5, 11)  # the last of EfficientNet-Lite0's blocks at 1/2, 1/4, 1/8 and 1/16 of the size
_SMALLEST, _LARGEST = 128, 224  # pixels: below, early maps say little; above, the weights were not trained


class FeatureDistance(nn.Module):
    """Distance of pictures (n, 3, size, size) in the features of EfficientNet-Lite0; 0 for equal ones, at most 4.

    The maps of four depths are scaled to unit length over channels at each place; the squared distance is
    averaged over places, then over depths. Pictures are scaled to between 128 and 224 pixels before.

    weights : as in `make_image_encoder`

    Source: Zhang et al., CVPR 2018 (LPIPS, equation 1). Differs: another network and no learned weights, so
    the numbers are no LPIPS.
    """

    name = "efficientnet_lite0"

    def __init__(self, *, weights: str = "pretrained"):
        super().__init__()
        self.encoder = make_image_encoder("efficientnet_lite0", weights=weights)

    def prepare(self, images: Tensor) -> list[Tensor]:
        """What `forward` needs of the pictures that stay as they are: their maps."""
        size = min(max(images.shape[-1], _SMALLEST), _LARGEST)
        x = _scaled(images, size)
        network = self.encoder.network.network
        x = ((x - self.encoder.mean) / self.encoder.std).contiguous(memory_format=torch.channels_last)
        x = network._swish(network._bn0(network._conv_stem(x)))
        maps = []
        for depth, block in enumerate(network._blocks[: _BLOCKS[-1]], start=1):
            x = block(x)
            if depth in _BLOCKS:
                maps.append(F.normalize(x, eps=1e-8))
        return maps

    def forward(self, images: Tensor, prepared: list[Tensor]) -> Tensor:
        """Distances (n,) of pictures to those that were prepared."""
        pairs = zip(self.prepare(images), prepared, strict=True)
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]).mean(0)


class LPIPSDistance(nn.Module):
    """The distance of the library lpips, its AlexNet variant, with the interface of `FeatureDistance`.

    Raises ValueError when the library or its weights are not on this machine.
    Source: Zhang et al., CVPR 2018.
    """

    name = "lpips"

    def __init__(self):
        super().__init__()
        try:
            import lpips

            with contextlib.redirect_stdout(io.StringIO()):  # the library prints what it loads
                network = lpips.LPIPS(net="alex", verbose=False)
        except ImportError as error:
            raise ValueError(
                "perceptual='lpips' needs the library lpips: run `pip install lpips`, or leave "
                "perceptual='efficientnet_lite0', whose weights are here."
            ) from error
        except Exception as error:  # torchvision and its proxies raise many kinds without a network
            raise ValueError(
                f"The weights of lpips are not on this machine ({type(error).__name__}); fetch them where there "
                "is a network, or leave perceptual='efficientnet_lite0', whose weights are here."
            ) from error
        self.network = network.eval().requires_grad_(False)

    def prepare(self, images: Tensor) -> Tensor:
        """The pictures, not smaller than 128 pixels."""
        return _scaled(images, max(images.shape[-1], _SMALLEST))

    def forward(self, images: Tensor, prepared: Tensor) -> Tensor:
        """Distances (n,) of pictures to those that were prepared."""
        return self.network(self.prepare(images), prepared, normalize=True).flatten()


DISTANCES: dict[str, Callable[[], nn.Module]] = {
    "efficientnet_lite0": FeatureDistance,
    "lpips": LPIPSDistance,
}


def make_distance(name: str = "efficientnet_lite0") -> nn.Module:
    """A perceptual distance by name: "efficientnet_lite0" or "lpips"."""
    return pick("perceptual distance", name, DISTANCES)()


def _scaled(images: Tensor, size: int) -> Tensor:
    """As `resize`, without its clipping, which would hide what lies outside 0 to 1 from gradients."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=size < images.shape[-1])
