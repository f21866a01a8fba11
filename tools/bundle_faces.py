"""Make brainedit/assets/faces: generator, attribute regressor, inversion encoder, samples, model card.

python tools/bundle_faces.py --generator RUN/generator --pictures FACES --held-out FACES_OF_SEED_1
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from brainedit.adversarial.pictures import read_pictures
from brainedit.attributes import r_squared, train_attributes
from brainedit.editing import grid_image
from brainedit.generators.base import Generator
from brainedit.generators.load import load_generator, save_generator
from brainedit.inversion_encoder import evaluate_encoder, load_encoder, train_encoder

ATTRIBUTES = ("age", "smile", "gender", "hair_colour", "hair_warmth", "hair_length", "skin_tone", "glasses")
ATTRIBUTES += ("beard", "face_width", "yaw", "pitch", "light")
ASSETS = Path(__file__).parents[1] / "brainedit" / "assets" / "faces"
LICENCE = (
    "Apache-2.0. Trained by us on faces painted by tools/face_world; no photograph and no person took part."
)
SIZE = 64


def painted(folder: str) -> tuple[torch.Tensor, pd.DataFrame]:
    """Pictures (n, 3, 64, 64) uint8 of a folder of painted faces, and their attributes row by row."""
    pictures = read_pictures(folder, size=SIZE)
    table = pd.read_csv(Path(folder, "attributes.csv")).set_index("file").loc[list(pictures.names)]
    return torch.from_numpy(np.array(pictures.images)), table[list(ATTRIBUTES)]


def nearest_training_pictures(
    generator: Generator, training: torch.Tensor, held_out: torch.Tensor, *, n: int = 200
) -> tuple[dict, Image.Image]:
    """Does the generator repeat its training pictures? Distances to the nearest one, RMS over 32 x 32 pixels, 0 to 1.

    Returns median and 1 % point for samples and, as the measure, for held-out paintings; and a sheet of samples
    above their nearest training picture.
    """
    samples = torch.cat(list(generator.synthesize_batches(generator.sample(n, seed=21), space="z")))
    known = _small(training)
    figures, nearest = {}, None
    for name, images in {"samples": samples, "held_out_paintings": held_out[:n]}.items():
        distance = torch.cdist(_small(images), known) / known.shape[1] ** 0.5
        closest, index = distance.min(1)
        nearest = index if nearest is None else nearest
        figures[name] = {"median": closest.median().item(), "lowest_1_percent": closest.quantile(0.01).item()}
    shown = torch.cat([samples[:12], training[nearest[:12]].float() / 255])
    return figures, grid_image(shown, columns=12, zoom=1)


def _small(images: torch.Tensor) -> torch.Tensor:
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    return torch.nn.functional.avg_pool2d(images, 2).flatten(1)


def main(options: argparse.Namespace) -> None:
    steps = options.only.split(",") if options.only else ["generator", "attributes", "encoder", "check"]
    ASSETS.mkdir(parents=True, exist_ok=True)
    figures_file = ASSETS / "figures.json"
    figures = json.loads(figures_file.read_text()) if figures_file.is_file() else {}
    if "generator" in steps:
        generator = load_generator(options.generator)
        generator.name, generator.licence = "faces", LICENCE
        save_generator(generator, ASSETS, precision="float16")
        figures["pictures_shown"] = options.shown
    if "attributes" in steps:
        images, table = painted(options.pictures)
        regressor = train_attributes(images, table, image_size=SIZE, n_epochs=8)
        held_out, wanted = painted(options.held_out)
        r2 = r_squared(regressor.table(held_out), wanted.reset_index(drop=True))
        regressor.card = {"n": len(images), "n_held_out": len(held_out), "r2": r2.round(3).to_dict()}
        regressor.save(ASSETS / "attributes.safetensors", precision=torch.float16)
        figures["attributes"] = regressor.card
    faces = load_generator("faces")
    if "encoder" in steps:
        encoder = train_encoder(faces, space="w", n_pictures=options.encoder_pictures)
        encoder.save(ASSETS)
        figures["encoder"] = vars(evaluate_encoder(load_encoder(ASSETS, generator=faces), faces))
    if "check" in steps:
        figures["memory"], sheet = nearest_training_pictures(
            faces, *(painted(f)[0] for f in (options.pictures, options.held_out))
        )
        sheet.save(ASSETS / "nearest.png", optimize=True)
    samples = faces.synthesize(faces.sample(48, seed=1), space="z")
    grid_image(samples, columns=12).save(ASSETS / "samples.png", optimize=True)
    figures_file.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generator", required=True, help="folder of the trained generator")
    parser.add_argument("--pictures", required=True, help="painted faces, seed 0, on which it was trained")
    parser.add_argument("--held-out", required=True, help="painted faces of another seed")
    parser.add_argument(
        "--shown", type=int, default=0, help="pictures shown in its training, for the model card"
    )
    parser.add_argument("--encoder-pictures", type=int, default=24_576)
    parser.add_argument("--only", default="", help="of generator,attributes,encoder,check")
    main(parser.parse_args())
