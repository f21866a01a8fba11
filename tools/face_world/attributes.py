"""The attributes of a painted face: names, ranges, meanings, and how they are drawn at random."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Attribute:
    """One number that steers one thing in the picture.

    share : part of the faces that have it at all; the others are at `low` (glasses, beard)
    named : True for an attribute that a visitor may edit, False for mere variety
    """

    name: str
    low: float
    high: float
    meaning: str
    unit: str = "1"
    share: float = 1.0
    named: bool = True


def _variety(
    name: str, low: float, high: float, meaning: str, *, unit: str = "1", share: float = 1.0
) -> Attribute:
    return Attribute(name, low, high, meaning, unit, share, named=False)


ATTRIBUTES = (
    Attribute("age", 0, 1, "child to old: proportions, folds, cheeks (never the hair)"),
    Attribute("smile", -1, 1, "corners of the mouth down to a broad smile that shows teeth"),
    Attribute("gender", -1, 1, "masculine to feminine: brows, jaw, lips, lashes, neck"),
    Attribute("hair_colour", 0, 1, "black through brown to light blond; brows and beard follow"),
    Attribute("hair_warmth", -1, 1, "ash to red"),
    Attribute("hair_length", 0, 1, "cropped to below the shoulders"),
    Attribute("skin_tone", 0, 1, "light to dark"),
    Attribute("glasses", 0, 1, "none, then a frame that grows from a pale wire to a thick rim", share=0.5),
    Attribute("beard", 0, 1, "none, then stubble to a full beard", share=0.45),
    Attribute("face_width", -1, 1, "narrow to wide"),
    Attribute("yaw", -0.5, 0.5, "head turned to the left or the right of the picture", "rad"),
    Attribute("pitch", -0.25, 0.25, "head raised (negative) or lowered", "rad"),
    Attribute("light", -1, 1, "light from the left or the right of the picture"),
    _variety("mouth_open", 0, 1, "lips apart", share=0.4),
    _variety("eye_size", -1, 1, "small to large eyes"),
    _variety("eye_colour", 0, 1, "brown, green, blue, grey"),
    _variety("brow_height", -1, 1, "low to high brows"),
    _variety("brow_tilt", -1, 1, "brows that fall or rise outwards"),
    _variety("nose_size", -1, 1, "small to large nose"),
    _variety("lip_size", -1, 1, "thin to full lips"),
    _variety("jaw", -1, 1, "pointed to square jaw"),
    _variety("hair_volume", 0, 1, "flat to high hair"),
    _variety("hair_curl", 0, 1, "straight to cloudy curls"),
    _variety("hair_part", -1, 1, "hair swept to the left or the right"),
    _variety("fringe", 0, 1, "free forehead to hair above the brows"),
    _variety("roll", -0.1, 0.1, "head leaning to one shoulder", unit="rad"),
    _variety("background_hue", 0, 1, "colour circle"),
    _variety("background_light", 0, 1, "dark to light"),
    _variety("clothes_hue", 0, 1, "colour circle"),
    _variety("clothes_light", 0, 1, "dark to light"),
)
BY_NAME = {attribute.name: attribute for attribute in ATTRIBUTES}


def sample_attributes(n: int, *, seed: int = 0) -> pd.DataFrame:
    """Random faces, one per row; columns are the names in ATTRIBUTES, in order.

    Every attribute is independent of every other and uniform on its range; one with a `share` below 1 is
    at its low end for the rest of the faces. Row i does not depend on `n`.

    Raises ValueError when n is negative.
    """
    if n < 0:
        raise ValueError(f"Need a number of faces of 0 or more; got {n}.")
    columns = {}
    for index, attribute in enumerate(ATTRIBUTES):
        draws = np.random.default_rng([seed, index]).random((n, 2))
        scaled = attribute.low + (attribute.high - attribute.low) * draws[:, 1]
        columns[attribute.name] = np.where(draws[:, 0] < attribute.share, scaled, attribute.low)
    return pd.DataFrame(columns)


def neutral_attributes() -> dict[str, float]:
    """The middle of every range; glasses, beard and open mouth at none."""
    return {a.name: a.low if a.share < 1 else (a.low + a.high) / 2 for a in ATTRIBUTES}


def check_attributes(attributes: Mapping[str, float]) -> dict[str, float]:
    """The attributes as plain floats.

    Raises ValueError for a name that is missing or unknown, or a value outside its range.
    """
    missing = [name for name in BY_NAME if name not in attributes]
    if missing:
        raise ValueError(f"Need every attribute; {missing[0]!r} and {len(missing) - 1} more are missing.")
    unknown = [name for name in attributes if name not in BY_NAME]
    if unknown:
        raise ValueError(f"Need known attributes; got {unknown[0]!r}.")
    values = {name: float(attributes[name]) for name in BY_NAME}
    for name, value in values.items():
        low, high = BY_NAME[name].low, BY_NAME[name].high
        if not low <= value <= high:
            raise ValueError(f"Need {name} from {low} to {high}; got {value}.")
    return values
