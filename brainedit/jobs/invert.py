"""A folder of pictures -> latents of a generator, with what is lost on the way."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from brainedit import editing
from brainedit.assets import FACES
from brainedit.datasets.latents import write_latents
from brainedit.datasets.paired import PICTURE_SUFFIXES
from brainedit.encoders.image import read_picture, resize
from brainedit.generators.load import load_generator
from brainedit.inversion import Inversion, invert
from brainedit.inversion_encoder import encode, load_encoder
from brainedit.report import Result, Section, check_out, result_folder

_SHOWN = 24  # pictures in the report


def invert_folder(
    images: str | Path,
    out: str | Path,
    *,
    generator: str,
    space: str = "w+",
    steps: int = 500,
    n_restarts: int = 4,
    optimise_noise: bool = False,
    label: int | None = None,
    encoder: str | Path | None = None,
    perceptual: str = "efficientnet_lite0",
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Pictures -> OUT/latents.safetensors, before and after side by side, the errors, a report.

    images : a folder; a picture's path below it is its stimulus. Pictures that are not square are squeezed
    label : the class of all pictures, for a conditional generator
    encoder : a folder written by `InversionEncoder.save`; its latents are the first start. The bundled
        generator "faces" has one of its own, for w and w+

    The other settings are those of `brainedit.inversion.invert`. Returns the result folder.
    """
    check_out(out, overwrite=overwrite)
    maker = load_generator(generator)
    if encoder is None and generator == "faces" and space != "z":
        encoder = FACES
    names, pictures, squeezed = read_folder(images, size=maker.image_size)
    start = encode(load_encoder(encoder, generator=maker), pictures) if encoder is not None else None
    settings = {"space": space, "steps": steps, "n_restarts": n_restarts, "optimise_noise": optimise_noise}
    settings |= {"perceptual": perceptual, "seed": seed}
    found = invert(maker, pictures, start=start, labels=label, **settings)
    result = Result(
        job="invert",
        title=f"Latents of {len(names)} pictures",
        lead=f"In {space} of {maker.name}. {maker.licence}",
        settings=settings | {"label": label},
        inputs={"images": images} | ({"encoder": encoder} if encoder is not None else {}),
        figures=_figures(names, found) | {"generator_sha256": maker.sha256, "space": space},
        warnings=[
            f"{name}: {text}" for name, texts in zip(names, found.warnings, strict=True) for text in texts
        ],
    )
    if squeezed:
        result.warnings.append(
            f"{squeezed[0]} and {len(squeezed) - 1} more pictures are not square and were squeezed."
        )
    result.sections += _sections(names, pictures, found)
    table = pd.DataFrame(found.latents.flatten(1).cpu().numpy(), index=names)
    with result_folder(out, overwrite=overwrite) as folder:
        write_latents(table, folder / "latents.safetensors", space=space)
        for i, pair in enumerate(_pairs(pictures, found)):
            editing.grid_image(pair, columns=2, zoom=_zoom(pair)).save(folder / f"picture_{i:03d}.png")
        if found.noise is not None:
            np.savez(folder / "noise.npz", **{f"map_{i}": m.cpu().numpy() for i, m in enumerate(found.noise)})
        result.write(folder)
    return Path(out)


def read_folder(folder: str | Path, *, size: int) -> tuple[list[str], Tensor, list[str]]:
    """Stimulus names, pictures (n, 3, size, size), and the names of those that are not square.

    Raises FileNotFoundError for a folder that is none, ValueError for one without pictures.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder of pictures {root}.")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    if not files:
        raise ValueError(f"{root} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))}).")
    names = [file.relative_to(root).as_posix() for file in files]
    pictures, squeezed = [], []
    for name, file in zip(names, files, strict=True):
        array = read_picture(file)
        if array.shape[0] != array.shape[1]:
            squeezed.append(name)
        tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)[None].float() / 255
        pictures.append(resize(tensor, size=size))
    return names, torch.cat(pictures), squeezed


def _figures(names: list[str], found: Inversion) -> dict:
    columns = {
        "psnr": found.psnr,
        "ssim": found.ssim,
        "feature_distance": found.feature_distance,
        "off_prior": found.off_prior,
    }
    means = {f"mean_{name}": float(np.mean(values)) for name, values in columns.items()}
    rows = {
        stimulus: {name: float(values[i]) for name, values in columns.items()}
        for i, stimulus in enumerate(names)
    }
    return means | {"prior_range": list(found.prior_range), "pictures": rows}


def _sections(names: list[str], pictures: Tensor, found: Inversion) -> list[Section]:
    low, high = found.prior_range
    rows = [
        (name, f"{p:.1f}", f"{s:.3f}", f"{d:.3f}", f"{o:.1f}", str(len(w)) if w else "")
        for name, p, s, d, o, w in zip(
            names,
            found.psnr,
            found.ssim,
            found.feature_distance,
            found.off_prior,
            found.warnings,
            strict=True,
        )
    ]
    head = ("picture", "PSNR, dB", "SSIM", "feature distance", "off prior", "warnings")
    shown = _pairs(pictures, found)[:_SHOWN].flatten(0, 1)
    sheet = editing.grid_image(shown, columns=8, zoom=_zoom(shown))
    return [
        Section(
            "Before and after",
            [
                "Each picture, then what the generator makes of its latent: edits begin there, not at the picture."
            ],
            pictures=[(sheet, f"The first {min(len(names), _SHOWN)} of {len(names)} pictures.")],
        ),
        Section(
            "What was lost",
            [
                "Off prior: Mahalanobis distance from the prior's mean; samples of the generator lie between "
                f"{low:.1f} and {high:.1f}."
            ],
            table=(head, rows),
        ),
    ]


def _pairs(pictures: Tensor, found: Inversion) -> Tensor:
    """(n, 2, 3, height, width): before, after."""
    return torch.stack([pictures, found.images.cpu()], dim=1)


def _zoom(images: Tensor) -> int:
    return max(1, 128 // images.shape[-1])
