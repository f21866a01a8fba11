"""A photograph with the face in it moved along a saved direction."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from brainedit.assets import FACES
from brainedit.directions import Direction
from brainedit.generators.load import load_generator
from brainedit.inversion_encoder import load_encoder
from brainedit.jobs.direction_inputs import read_locks
from brainedit.jobs.direction_sections import STRENGTHS
from brainedit.jobs.edit import edit_result, farthest_of
from brainedit.marks import save_marked
from brainedit.photo import PhotoEdit, edit_photo
from brainedit.report import Section, check_out, result_folder

BUNDLED = "faces"
PASTED = {
    "picture": "what is lost here is lost in all of them.",
    "change": "only what an edit changes goes into the photograph, so what is lost here stays as it was.",
}
_WIDTH = 720  # of a photograph in the report, pixels


def edit_photo_file(
    direction: str | Path,
    photo: str | Path,
    out: str | Path,
    *,
    generator: str,
    strengths: Sequence[float] = STRENGTHS,
    eyes: Sequence[Sequence[float]] | None = None,
    template: str | None = None,
    path: str = "auto",
    layers: Sequence[int] | None = None,
    locks: Sequence[str | Path] = (),
    steps: int = 500,
    restarts: int = 4,
    paste: str = "picture",
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """A photograph edited at each strength -> OUT/photo_000.png, ..., the sheet, a report.

    eyes : centres of both eyes (x, y), pixels of the photograph as it is shown; None takes all of a square one
    template : where the generator's faces have their eyes; "faces" for the bundled generator, else "celebahq"
    steps, restarts, paste : of `brainedit.photo.edit_photo`; the other settings are those of `edit_file`

    Each picture says in its metadata that it was edited with a generative model. Returns the result folder.
    """
    check_out(out, overwrite=overwrite)
    maker, move = load_generator(generator), Direction.load(direction)
    bundled = generator == BUNDLED
    settings = {
        "path": path,
        "layers": None if layers is None else list(layers),
        "locks": read_locks(locks, maker, move.space),
    }
    found = edit_photo(
        maker,
        photo,
        [(move, list(strengths))],
        eyes=eyes,
        template=template or (BUNDLED if bundled else "celebahq"),
        encoder=load_encoder(FACES, generator=maker) if bundled and move.space != "z" else None,
        steps=steps,
        n_restarts=restarts,
        paste=paste,
        seed=seed,
        **settings,
    )
    told = {"eyes": eyes, "steps": steps, "restarts": restarts, "paste": paste}
    result = edit_result(move, maker, list(strengths), settings | told, seed=seed)
    result.title = f"A photograph, edited: {move.name}"
    result.lead = f"Inverted in {maker.name} and moved there. {maker.licence}"
    result.inputs = {"direction": direction, "photo": photo}
    result.inputs |= {f"lock {i + 1}": lock for i, lock in enumerate(locks)}
    result.figures["inversion"] = _errors(found)
    result.warnings += found.warnings
    result.sections[:0] = _sections(found, list(strengths), paste)
    with result_folder(out, overwrite=overwrite) as folder:
        sheet = folder / "sheet.png"
        save_marked(found.sheet(zoom=_zoom(maker.image_size)), sheet, found.marks[-1])
        np.save(folder / "latents.npy", found.inversion.latents.cpu().numpy())
        files = [found.save(folder / f"photo_{k:03d}.png", k=k) for k in range(len(found.images))]
        result.write(folder)
        if result.stamp:  # the band took the mark away
            _mark_again([*files, sheet], [*found.marks, found.marks[-1]], found)
    return Path(out)


def _errors(found: PhotoEdit) -> dict[str, float]:
    inverted = found.inversion
    columns = {
        "psnr": inverted.psnr,
        "ssim": inverted.ssim,
        "feature_distance": inverted.feature_distance,
        "off_prior": inverted.off_prior,
    }
    return {name: float(values[0]) for name, values in columns.items()}


def _sections(found: PhotoEdit, strengths: list[float], paste: str) -> list[Section]:
    errors, (low, high) = _errors(found), found.inversion.prior_range
    rows = [
        ("PSNR", f"{errors['psnr']:.1f} dB"),
        ("SSIM", f"{errors['ssim']:.3f}"),
        ("feature distance", f"{errors['feature_distance']:.3f}"),
        ("distance from the prior's mean", f"{errors['off_prior']:.1f} (samples: {low:.1f} to {high:.1f})"),
    ]
    farthest = farthest_of(strengths)
    pair = [_shown(found.photo), _shown(found.images[farthest])]
    return [
        Section(
            "The photograph, before and after",
            pictures=[(pair[0], "As it was."), (pair[1], f"Edited by {strengths[farthest]:+g} SD.")],
        ),
        Section(
            "The face, as the generator knows it",
            [
                f"First what was cut out, then what the generator makes of it: edits begin there, and {PASTED[paste]}"
            ],
            table=(("error of the inversion", ""), rows),
            pictures=[(found.sheet(zoom=_zoom(found.before.shape[-1])), "Cut out, found again, and edited.")],
        ),
    ]


def _shown(photo: np.ndarray) -> Image.Image:
    image = Image.fromarray(photo)
    image.thumbnail((_WIDTH, _WIDTH))
    return image


def _zoom(size: int) -> int:
    return max(1, 128 // size)


def _mark_again(files: Sequence[Path], marks: Sequence[dict], found: PhotoEdit) -> None:
    for file, mark in zip(files, marks, strict=True):
        with Image.open(file) as opened:
            stamped = opened.convert("RGB")
        save_marked(stamped, file, mark, colour_profile=found.colour_profile)
