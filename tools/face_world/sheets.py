"""Pictures of many faces: a contact sheet, and sweeps of one attribute at a time."""

import numpy as np
from PIL import Image, ImageDraw

from tools.face_world.attributes import ATTRIBUTES, neutral_attributes, sample_attributes
from tools.face_world.painter import paint

_FACES = (
    {"age": 0.35, "gender": 0.8, "hair_length": 0.75, "hair_colour": 0.45, "skin_tone": 0.2, "fringe": 0.2},
    {
        "age": 0.45,
        "gender": -0.8,
        "hair_length": 0.2,
        "hair_colour": 0.1,
        "skin_tone": 0.65,
        "background_hue": 0.05,
    },
)


def contact_sheet(*, seed: int = 0, size: int = 128, columns: int = 8, rows: int = 6) -> np.ndarray:
    """The first columns x rows faces of a set, uint8 (rows * size, columns * size, 3)."""
    table = sample_attributes(columns * rows, seed=seed).to_dict("records")
    faces = np.stack([paint(row, seed=index, size=size) for index, row in enumerate(table)])
    return faces.reshape(rows, columns, size, size, 3).swapaxes(1, 2).reshape(rows * size, columns * size, 3)


def sweep_sheet(*, size: int = 96, steps: int = 7) -> np.ndarray:
    """Two faces side by side; in each row one named attribute goes evenly over its range, uint8."""
    rows = []
    for attribute in (a for a in ATTRIBUTES if a.named):
        values = np.linspace(attribute.low, attribute.high, steps)
        faces = [neutral_attributes() | face | {attribute.name: value} for face in _FACES for value in values]
        pictures = [paint(face, seed=index // steps, size=size) for index, face in enumerate(faces)]
        rows.append(np.concatenate([_label(attribute.name, size=size), *pictures], axis=1))
    return np.concatenate(rows)


def _label(text: str, *, size: int) -> np.ndarray:
    image = Image.new("RGB", (size, size), "white")
    ImageDraw.Draw(image).text((4, size // 2 - 6), text, fill="black")
    return np.asarray(image)
