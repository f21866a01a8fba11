"""Edit a photograph: a face is cut out, found again in a generator, moved, and pasted back; the file says so."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from brainedit._check import pick
from brainedit.crops import Crop, Eyes, add_back, eyes_crop, paste_back, square_crop, take_out
from brainedit.directions import Direction
from brainedit.editing import Moves, edit, edit_latents
from brainedit.encoders.image import content_sha256, read_picture
from brainedit.generators.base import Generator
from brainedit.inversion import Inversion, invert
from brainedit.inversion_encoder import InversionEncoder, encode
from brainedit.marks import colour_profile, save_marked
from brainedit.sheets import captioned

PASTES = ("picture", "change")


@dataclass(frozen=True)
class PhotoEdit:
    """A photograph before and after.

    photo : uint8 (height, width, 3), turned as its EXIF tag says
    crop : what was cut out
    before : (3, size, size), the crop
    inversion : what the generator makes of it, and with what error: all edits begin there
    edited : (k, 3, size, size), the generator's pictures at the k strengths
    images : k photographs, uint8 (height, width, 3)
    marks : what is written into each file
    warnings : the sentences that a reader must see
    """

    photo: np.ndarray
    crop: Crop
    before: Tensor
    inversion: Inversion
    edited: Tensor
    images: list[np.ndarray]
    marks: list[dict[str, Any]]
    warnings: tuple[str, ...]
    colour_profile: bytes | None = None

    def save(self, path: str | os.PathLike, *, k: int = -1) -> Path:
        """Write the photograph at one of the strengths (default the last) as .png or .jpg, marked as edited.

        Raises ValueError for another kind of file, IndexError where there is no such strength.
        """
        return save_marked(self.images[k], path, self.marks[k], colour_profile=self.colour_profile)

    def sheet(self, *, zoom: int = 1) -> Image.Image:
        """The crop, what the generator makes of it with its error in dB, and the edits."""
        found = self.inversion
        strengths = [
            ", ".join(f"{move['strength']:+g} {move['name']}" for move in m["moves"]) for m in self.marks
        ]
        pictures = torch.cat([self.before[None], found.images.cpu(), self.edited.cpu()])
        captions = ["photograph", f"found, {found.psnr[0]:.1f} dB", *strengths]
        return captioned(pictures, captions, columns=len(captions), zoom=zoom)


def edit_photo(
    generator: Generator,
    photo: str | Path | np.ndarray,
    moves: Moves,
    *,
    eyes: Eyes | None = None,
    square: tuple[float, float, float] | None = None,
    detect: Callable[[np.ndarray], Eyes] | None = None,
    template: str | Eyes = "celebahq",
    space: str | None = None,
    layers: Iterable[int] | None = None,
    locks: Sequence[Direction] = (),
    path: str = "line",
    encoder: InversionEncoder | None = None,
    steps: int = 500,
    n_restarts: int = 4,
    labels: Tensor | int | None = None,
    perceptual: str | nn.Module = "efficientnet_lite0",
    found: Inversion | None = None,
    paste: str = "picture",
    feather: float = 0.1,
    seed: int = 0,
    progress: bool = True,
) -> PhotoEdit:
    """A photograph with the face in it moved along directions.

    photo : a file, or an array as `read_picture` takes it; places in it are counted as it is shown upright
    moves : as in `edit`; a sequence of k strengths gives k photographs, numbers one
    eyes : centres of both eyes (x, y), pixels; the crop is turned and scaled so that they fit `template`
    square : left, top and side of an upright crop, pixels. Without eyes, square or detect the photograph must be
        square, and all of it is taken
    detect : finds the eyes in the photograph, such as `yunet_eyes`
    template : where the generator's faces have their eyes, as in `eyes_crop`
    space : where the face is looked for; default "w+" for directions in w, else the space of the directions
    encoder : gives the first start, as in `invert`, whose settings the others are
    found : the inversion of an earlier edit of this photograph with the same eyes and space, which is used as it is
    paste : "picture" pastes what the generator made, with its error. "change" adds the difference between the edit
        and the unedited inversion: what the generator cannot make stays, and may shine through large edits
    feather : as in `paste_back`

    Raises ValueError when several of eyes, square and detect are given, or none for a photograph that is not
    square, or as `eyes_crop`, `square_crop`, `invert` and `edit` do.
    """
    pick("way to paste", paste, dict.fromkeys(PASTES))
    space, layers = space or _space(moves), None if layers is None else list(layers)
    _refuse(generator, moves, space, layers, locks, path)
    pixels = read_picture(photo)
    crop = _crop(pixels, eyes, square, detect, template)
    before = take_out(pixels, crop, size=generator.image_size)
    if found is None:
        start = None if encoder is None else encode(encoder, before)
        inverting = {"steps": steps, "n_restarts": n_restarts, "perceptual": perceptual, "seed": seed}
        inverting |= {"labels": labels, "progress": progress}
        found = invert(generator, before, space=space, start=start, **inverting)
    shown = labels if space == "z" else None
    with torch.no_grad():
        edited = edit(
            generator, found.latents, moves, space=space, layers=layers, locks=locks, path=path, labels=shown
        )
    edited = edited[0] if edited.ndim == 5 else edited  # (k, 3, size, size)
    if paste == "change":
        images = [add_back(pixels, crop, part - found.images[0], feather=feather) for part in edited]
    else:
        images = [paste_back(pixels, crop, part, feather=feather) for part in edited]
    settings = {"space": space, "path": path, "paste": paste, "locks": [lock.name for lock in locks]}
    marks = _marks(generator, photo, moves, len(edited), settings)
    warnings = tuple(_crop_warnings(pixels, crop, generator, paste)) + found.warnings[0]
    return PhotoEdit(pixels, crop, before, found, edited, images, marks, warnings, colour_profile(photo))


def _space(moves: Moves) -> str:
    spaces = {direction.space for direction, _ in moves}
    if spaces == {"z"}:
        return "z"
    if spaces - {"w", "w+"} or not spaces:
        raise ValueError(
            f"Faces are moved along directions of one kind, in z or in w and w+; got {sorted(spaces)}."
        )
    return "w+"


def _refuse(
    generator: Generator,
    moves: Moves,
    space: str,
    layers: Iterable[int] | None,
    locks: Sequence[Direction],
    path: str,
) -> None:
    """What cannot be edited is refused before the minutes of an inversion."""
    latents = generator.sample(1, space="z" if space == "z" else "w")
    if space == "w+":
        latents = latents[:, None].repeat(1, generator.n_layers, 1)
    edit_latents(generator, latents, moves, space=space, layers=layers, locks=locks, path=path)


def _crop(
    photo: np.ndarray,
    eyes: Eyes | None,
    square: tuple[float, float, float] | None,
    detect: Callable[[np.ndarray], Eyes] | None,
    template: str | Eyes,
) -> Crop:
    given = [
        name for name, value in (("eyes", eyes), ("square", square), ("detect", detect)) if value is not None
    ]
    if len(given) > 1:
        raise ValueError(f"One of eyes, square and detect says where the face is; got {' and '.join(given)}.")
    if square is not None:
        return square_crop(photo, *square)
    if given:
        return eyes_crop(photo, eyes if detect is None else detect(photo), template=template)
    height, width = photo.shape[:2]
    if height != width:
        raise ValueError(
            f"The photograph has {width} x {height} pixels and is not square: say where the face is with eyes "
            "or square."
        )
    return square_crop(photo, 0, 0, width)


def _crop_warnings(photo: np.ndarray, crop: Crop, generator: Generator, paste: str) -> list[str]:
    found = []
    within = crop.share_within(*photo.shape[:2])
    if within < 1:
        found.append(
            f"{1 - within:.0%} of the crop lies outside the photograph; its edge was continued there, which may "
            "mislead the inversion."
        )
    size = generator.image_size
    if crop.side < size:
        found.append(f"The crop of {crop.side:.0f} pixels was enlarged to the generator's {size}.")
    elif crop.side > 1.5 * size:
        what = "the pasted face is blurred" if paste == "picture" else "only what is coarse can change"
        found.append(f"The crop of {crop.side:.0f} pixels was reduced to the generator's {size}: {what}.")
    return found


def _marks(
    generator: Generator, photo: str | Path | np.ndarray, moves: Moves, k: int, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    columns = [np.broadcast_to(np.asarray(strength, np.float64), (k,)) for _, strength in moves]
    shared = {
        "edited": True,
        "generator": generator.name,
        "generator_sha256": generator.sha256,
        "original_sha256": content_sha256(photo),
        **settings,
    }
    named = [
        {
            "name": direction.name,
            "scale": direction.scale,
            "simulated": bool(direction.provenance.get("simulated")),
        }
        for direction, _ in moves
    ]
    return [
        shared | {"moves": [n | {"strength": float(c[i])} for n, c in zip(named, columns, strict=True)]}
        for i in range(k)
    ]
