"""The bundled faces: attribute regressor, single-attribute directions, KID, inversion, no memorisation.

The held-out pictures are painted with a seed that trained nothing (needs skia-python):
python -m tools.face_world --n 2000 --seed 1 --out HELD_OUT
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from real_p300 import arguments, print_table, write_results
from tqdm import tqdm

from brainedit.adversarial.kid import KID, kid, kid_features
from brainedit.attributes import AttributeRegressor, face_attributes, r_squared
from brainedit.directions import Direction, brain_direction
from brainedit.editing import edit
from brainedit.encoders.image import make_image_encoder, picture_tensor
from brainedit.generators.base import Generator
from brainedit.generators.load import load_generator
from brainedit.inversion import invert

N_W, N_EDITED, MOVE, LIMIT = 5_000, 200, 2.0, 0.5


def held_out_faces(n: int, folder: str) -> tuple[torch.Tensor, pd.DataFrame]:
    """Renderings (n, 3, 64, 64) in 0 to 1 that trained nothing, with their attributes."""
    table = pd.read_csv(Path(folder, "attributes.csv")).head(n)
    images = [picture_tensor(Path(folder, name), size=64) for name in tqdm(table["file"], desc="reading")]
    return torch.stack(images), table


def directions(generator: Generator, regressor: AttributeRegressor, named: list[str]) -> dict[str, dict]:
    """For each attribute: what an edit of +2 SD moves in new faces, itself and the others, in population SD.

    A direction is the ridge slope of 5,000 regressor scores on w, with the slopes of the other attributes projected
    out; the strength that moves 100 faces by 2 SD is then used on 200 others.
    """
    w = generator.sample(N_W, space="w", seed=11)
    scores = _scores(generator, regressor, w)[named]
    spread = scores.std()
    names = [f"{i}" for i in range(N_W)]
    latents = pd.DataFrame(w.numpy(), index=names)
    slopes = {
        name: brain_direction(
            latents, scores[name].set_axis(names), space="w", name=name, generator=generator
        )
        for name in named
    }
    found = {}
    for name in tqdm(named, desc="directions"):
        others = [slopes[other] for other in named if other != name]
        direction = slopes[name].orthogonal_to(*others, generator=generator)
        strength = _strength(generator, regressor, direction, name, spread[name])
        moved = _moved(generator, regressor, direction, strength, seed=13)[named] / spread
        rest = moved.drop(columns=name)
        found[name] = {
            "moved": float(moved[name].mean()),
            "others": float(rest.abs().to_numpy().mean()),
            "largest_other": float(rest.mean().abs().max()),
            "largest_other_name": str(rest.mean().abs().idxmax()),
            "strength": strength,
        }
    return found


def _strength(
    generator: Generator, regressor: AttributeRegressor, direction: Direction, name: str, sd: float
) -> float:
    """Multiple of the direction's scale that moves the attribute by 2 SD, by secant steps on 100 faces."""
    strength = 2.0
    for _ in range(4):
        moved = _moved(generator, regressor, direction, strength, seed=12, n=N_EDITED // 2)[name].mean() / sd
        strength = float(np.clip(strength * MOVE / max(moved, 0.2), 0.2, 12))
    return strength


def _moved(
    generator: Generator,
    regressor: AttributeRegressor,
    direction: Direction,
    strength: float,
    *,
    seed: int,
    n: int = N_EDITED,
) -> pd.DataFrame:
    """Change of every attribute, one row a face."""
    w = generator.sample(n, space="w", seed=seed)
    before, after = edit(generator, w, [(direction, [0.0, strength])], space="w").unbind(1)
    return regressor.table(after) - regressor.table(before)


def _scores(generator: Generator, regressor: AttributeRegressor, w: torch.Tensor) -> pd.DataFrame:
    batches = tqdm(
        generator.synthesize_batches(w, space="w"), desc="scoring generated faces", total=-(-len(w) // 32)
    )
    return pd.concat([regressor.table(images) for images in batches], ignore_index=True)


def kids(generator: Generator, real: torch.Tensor) -> dict[str, KID]:
    """KID of generated faces to one half of the held-out renderings, beside that of the two halves."""
    half = len(real) // 2
    fake = torch.cat(list(generator.synthesize_batches(generator.sample(half, seed=14), space="z")))
    encoder = make_image_encoder("efficientnet_lite0")
    parts = (fake, real[:half], real[half : 2 * half])
    fakes, one, other = (kid_features(encoder, (part * 255).round().byte()) for part in parts)
    return {"generated": kid(fakes, one), "two sets of renderings": kid(other, one)}


def inversion(generator: Generator, real: torch.Tensor) -> dict[str, float]:
    """PSNR (dB) of held-out renderings found again in w+, and the seconds for each."""
    start = time.perf_counter()
    found = invert(generator, real, space="w+")
    seconds = (time.perf_counter() - start) / len(real)
    psnr = np.asarray(found.psnr)
    return {"mean": psnr.mean(), "lowest": psnr.min(), "ssim": float(np.mean(found.ssim)), "seconds": seconds}


def main(options: argparse.Namespace) -> None:
    generator, regressor = load_generator(options.generator), face_attributes()
    real, table = held_out_faces(options.n, options.pictures)
    r2 = r_squared(regressor.table(real), table.reset_index(drop=True)[regressor.names])
    print_table(f"Attribute regressor, R2 on {len(real)} held-out renderings", r2.to_dict())
    moved = directions(generator, regressor, regressor.names)
    rows = {
        name: f"{row['moved']:+.2f} SD, others {row['others']:.2f} "
        f"(most: {row['largest_other_name']} {row['largest_other']:.2f})"
        for name, row in moved.items()
    }
    print_table(f"Edits of {MOVE:g} SD on {N_EDITED} new faces (limit for the others: {LIMIT})", rows)
    realism = kids(generator, real)
    rows = {
        name: f"{found.value:.4f} (standard error {found.standard_error:.4f})"
        for name, found in realism.items()
    }
    print_table(f"KID, {len(real) // 2} pictures a side, EfficientNet-Lite0 features at 128 px", rows)
    inverted = inversion(generator, real[:20])
    print_table("Inversion of 20 held-out renderings in w+", inverted)
    results = {
        "n": len(real),
        "r2": r2.to_dict(),
        "directions": moved,
        "kid": {name: vars(found) for name, found in realism.items()},
        "inversion": inverted,
    }
    write_results(options.out, "face_world", results)


if __name__ == "__main__":
    parser = arguments(__doc__, "face_world")
    parser.add_argument("--pictures", required=True, help="folder of held-out faces, see above")
    parser.add_argument("--generator", default="faces")
    parser.add_argument("--n", type=int, default=2_000, help="held-out renderings")
    main(parser.parse_args())
