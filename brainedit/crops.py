"""Square crops of a photograph, upright or turned: found by hand or from two eyes, taken out and pasted back."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from brainedit._check import pick
from brainedit.encoders.image import resize

Eyes = Sequence[Sequence[float]]
_NEAREST_EYES = 8  # pixels
_ROWS = 128  # of a photograph that are blended at once
# where the two eyes lie in a crop, in parts of its side: for aligned photographs the crop is 4 times as wide as the
# eyes are apart, its centre .1 of the way from eyes to mouth below them (Karras et al., ICLR 2018, appendix C)
TEMPLATES: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "celebahq": ((0.375, 0.47), (0.625, 0.47)),
    "faces": ((0.38, 0.50), (0.62, 0.50)),
}


@dataclass(frozen=True)
class Crop:
    """A square of a photograph.

    centre : (x, y) in pixels from the photograph's upper left corner
    side : its length, pixels
    angle : degrees by which it is turned clockwise
    """

    centre: tuple[float, float]
    side: float
    angle: float = 0.0

    def inside(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places in the photograph, pixels -> places in the crop, 0 to 1 where they lie in it."""
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        dx, dy = x - self.centre[0], y - self.centre[1]
        return (cos * dx + sin * dy) / self.side + 0.5, (-sin * dx + cos * dy) / self.side + 0.5

    def outside(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places in the crop, 0 to 1 -> places in the photograph, pixels."""
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        du, dv = (u - 0.5) * self.side, (v - 0.5) * self.side
        return cos * du - sin * dv + self.centre[0], sin * du + cos * dv + self.centre[1]

    def share_within(self, height: int, width: int) -> float:
        """How much of the crop the photograph holds, 0 to 1."""
        grid = (np.arange(200) + 0.5) / 200
        x, y = self.outside(*np.meshgrid(grid, grid))
        return float(((x >= 0) & (x <= width) & (y >= 0) & (y <= height)).mean())


def square_crop(photo: np.ndarray, left: float, top: float, side: float) -> Crop:
    """The upright square with this upper left corner and side, in pixels.

    Raises ValueError when it does not lie in the photograph (height, width, 3).
    """
    height, width = photo.shape[:2]
    fits = min(left, top) >= 0 and left + side <= width and top + side <= height
    if not (fits and side >= 2):
        raise ValueError(
            f"A crop lies in the photograph of {width} x {height} pixels and is 2 or more wide; got left {left:g}, "
            f"top {top:g}, side {side:g}."
        )
    return Crop((left + side / 2, top + side / 2), float(side))


def eyes_crop(photo: np.ndarray, eyes: Eyes, *, template: str | Eyes = "celebahq") -> Crop:
    """The square that brings two eyes to where a generator's faces have them; it may reach beyond the photograph.

    eyes : centres of two eyes (x, y) in pixels, in any order; the one further left in the photograph becomes the
        left one, so a face on its head must be turned first
    template : "celebahq" (also FFHQ: photographs aligned in that way), "faces" (the bundled generator), or two
        places (x, y) in parts of the crop's side, at the same height

    Raises ValueError when an eye lies outside the photograph or they are less than 8 pixels apart.
    Source: Karras et al., ICLR 2018, appendix C. Differs: by two eyes alone, the mouth taken to be 1.1 times as
    far from them as they are from each other.
    """
    left, right = _sorted_eyes(eyes, "eyes")
    height, width = photo.shape[:2]
    for x, y in (left, right):
        if not (0 <= x <= width and 0 <= y <= height):
            raise ValueError(
                f"The eye at ({x:g}, {y:g}) is outside the photograph of {width} x {height} pixels."
            )
    apart = math.hypot(right[0] - left[0], right[1] - left[1])
    if apart < _NEAREST_EYES:
        raise ValueError(f"The eyes must be {_NEAREST_EYES} pixels or more apart; these are {apart:.1f}.")
    places = pick("template", template, TEMPLATES) if isinstance(template, str) else template
    (u0, v0), (u1, v1) = _sorted_eyes(places, "template's eyes")
    if not (0 < u0 < u1 < 1 and v0 == v1 and 0 < v0 < 1):
        raise ValueError(f"A template's eyes lie side by side between 0 and 1; got {places}.")
    angle = math.degrees(math.atan2(right[1] - left[1], right[0] - left[0]))
    flat = Crop((0.0, 0.0), apart / (u1 - u0), angle)
    x, y = flat.outside(np.array((u0 + u1) / 2), np.array(v0))  # the point between the eyes, from the centre
    middle = (left[0] + right[0]) / 2, (left[1] + right[1]) / 2
    return Crop((middle[0] - float(x), middle[1] - float(y)), flat.side, angle)


def take_out(photo: np.ndarray, crop: Crop, *, size: int) -> Tensor:
    """The crop as a picture (3, size, size) float32, 0 to 1, without aliasing; beyond the photograph its edge goes on.

    photo : uint8 (height, width, 3)
    """
    (x0, x1), (y0, y1) = _box(crop)
    height, width = photo.shape[:2]
    rows, columns = np.clip(np.arange(y0, y1), 0, height - 1), np.clip(np.arange(x0, x1), 0, width - 1)
    pixels = torch.from_numpy(photo[rows[:, None], columns]).permute(2, 0, 1)[None].float() / 255
    shrink = max(1, int(crop.side // (2 * size)))  # first by whole pixels, which needs less memory
    pixels = F.avg_pool2d(pixels, shrink, ceil_mode=True)
    n = max(size, math.ceil(crop.side / shrink))
    u, v = np.meshgrid(*[(np.arange(n) + 0.5) / n] * 2)
    x, y = crop.outside(u, v)
    taken = _sampled(pixels, (x - x0) / shrink, (y - y0) / shrink, mode="bilinear")
    return resize(taken, size=size)[0].clamp(0, 1)


def paste_back(photo: np.ndarray, crop: Crop, picture: Tensor, *, feather: float = 0.1) -> np.ndarray:
    """The photograph with a picture (3, size, size) in place of the crop, uint8 (height, width, 3).

    Inside, the edge is blended over `feather` of the side; outside, no pixel changes.

    Raises ValueError for a feather outside 0 to .5.
    """
    return _blended(photo, crop, picture, feather, added=False)


def add_back(photo: np.ndarray, crop: Crop, change: Tensor, *, feather: float = 0.1) -> np.ndarray:
    """The photograph with a change (3, size, size), -1 to 1, added to the crop; as `paste_back` otherwise."""
    return _blended(photo, crop, change, feather, added=True)


def yunet_eyes(model: str | Path) -> Callable[[np.ndarray], Eyes]:
    """A detector of the two eyes of the one face in a photograph, for `edit_photo`.

    model : the file of the network YuNet that OpenCV runs, face_detection_yunet_2023mar.onnx; OpenCV does not bring it

    Raises FileNotFoundError without the file. The detector raises ValueError for no face or several.
    """
    if not Path(model).is_file():
        raise FileNotFoundError(
            f"There is no detector {model}; give the eyes by hand, or fetch OpenCV's YuNet."
        )

    def detect(photo: np.ndarray) -> Eyes:
        import cv2

        scale = min(1.0, 640 / max(photo.shape[:2]))  # larger faces are missed
        small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        network = cv2.FaceDetectorYN.create(str(model), "", (small.shape[1], small.shape[0]))
        _, faces = network.detect(np.ascontiguousarray(small[..., ::-1]))
        n = 0 if faces is None else len(faces)
        if n != 1:
            raise ValueError(f"The detector found {n} faces, and 1 is needed; give the eyes by hand.")
        # box (4 numbers), then x and y of the right eye and of the left eye
        return [tuple(float(value) / scale for value in faces[0, i : i + 2]) for i in (4, 6)]

    return detect


def _sorted_eyes(eyes: Eyes, what: str) -> list[tuple[float, float]]:
    array = np.asarray(eyes, np.float64)
    if array.shape != (2, 2) or not np.isfinite(array).all():
        raise ValueError(f"The {what} are two places (x, y); got {eyes}.")
    return sorted((float(x), float(y)) for x, y in array)


def _box(crop: Crop) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and past the last column and row that the crop touches, with a pixel to spare."""
    x, y = crop.outside(np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]))
    return (math.floor(x.min()) - 1, math.ceil(x.max()) + 1), (
        math.floor(y.min()) - 1,
        math.ceil(y.max()) + 1,
    )


def _sampled(pixels: Tensor, x: np.ndarray, y: np.ndarray, *, mode: str) -> Tensor:
    """Pixels (1, 3, h, w) at places (n, m) in pixels, where the first pixel goes from 0 to 1 -> (1, 3, n, m)."""
    height, width = pixels.shape[2:]
    grid = torch.from_numpy(np.stack([2 * x / width - 1, 2 * y / height - 1], axis=-1)).to(pixels)[None]
    return F.grid_sample(pixels, grid, mode=mode, padding_mode="border", align_corners=False)


def _blended(photo: np.ndarray, crop: Crop, picture: Tensor, feather: float, *, added: bool) -> np.ndarray:
    if not 0 <= feather <= 0.5:
        raise ValueError(f"The feather is 0 to 0.5 of the crop's side; got {feather}.")
    height, width = photo.shape[:2]
    (x0, x1), (y0, y1) = _box(crop)
    picture = picture.detach().cpu().float()[None]
    if crop.side < picture.shape[-1]:
        smaller = math.ceil(crop.side)
        picture = F.interpolate(picture, (smaller, smaller), mode="bilinear", antialias=True)
    blended = photo.copy()
    columns = slice(max(x0, 0), min(x1, width))
    for top in range(max(y0, 0), min(y1, height), _ROWS):
        rows = slice(top, min(top + _ROWS, y1, height))
        x, y = np.meshgrid(np.arange(width)[columns] + 0.5, np.arange(height)[rows] + 0.5)
        u, v = crop.inside(x, y)
        edge = np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v))  # below 0 outside the crop
        t = np.clip(edge / feather, 0, 1) if feather else np.ones_like(edge)
        weight = np.where(edge > 0, t * t * (3 - 2 * t), 0.0)[..., None]
        new = _sampled(picture, u * picture.shape[-1], v * picture.shape[-1], mode="bicubic")
        new = new[0].permute(1, 2, 0).double().numpy() * 255
        was = photo[rows, columns].astype(np.float64)
        mixed = was + weight * (new if added else new - was)
        blended[rows, columns] = np.where(weight > 0, np.clip(np.round(mixed), 0, 255), was).astype(np.uint8)
    return blended
