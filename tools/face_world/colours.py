"""Colours of skin, hair, eyes and cloth, and how light falls on them."""

import colorsys
from collections.abc import Mapping

import numpy as np

from tools.face_world.canvas import mix, ramp

_SKIN = [(255, 226, 205), (244, 200, 168), (224, 170, 130), (186, 130, 92), (138, 90, 64), (96, 62, 48)]
_HAIR = [(30, 25, 30), (66, 43, 34), (112, 72, 46), (160, 110, 66), (204, 160, 98), (240, 212, 150)]
_WARM = [(70, 22, 18), (176, 62, 26), (240, 150, 78)]
_ASH = [(28, 30, 40), (118, 112, 110), (228, 222, 208)]
_IRIS = [(78, 46, 28), (104, 74, 38), (92, 124, 72), (76, 132, 152), (92, 136, 190), (142, 160, 178)]


class Palette:
    """The colours of one face; each depends on the attributes that name it and on no other."""

    def __init__(self, attributes: Mapping[str, float]):
        age, gender = attributes["age"], attributes["gender"]
        base = ramp(_SKIN, attributes["skin_tone"])
        self.skin = mix(base, base * np.array([0.97, 0.955, 0.90]), age)
        self.deep = self.skin * np.array([0.56, 0.42, 0.42]) + np.array([6, 0, 10])
        self.bright = mix(self.skin, (255, 246, 230), 0.45 - 0.10 * attributes["skin_tone"])
        self.blush = mix(self.skin, (226, 70, 78), 0.40)
        self.lips = mix(mix(self.skin, (186, 74, 76), 0.42), (200, 34, 62), max(0.0, 0.30 + 0.30 * gender))
        self.hair = _hair(attributes["hair_colour"], attributes["hair_warmth"])
        self.iris = ramp(_IRIS, attributes["eye_colour"])
        self.background = _tint(
            attributes["background_hue"], 0.32, 0.48 + 0.44 * attributes["background_light"]
        )
        self.cloth = _tint(attributes["clothes_hue"], 0.50, 0.28 + 0.57 * attributes["clothes_light"])


class Light:
    """A key light that swings from left to right and a weak fill from the other side."""

    def __init__(self, direction: float):
        angle = 1.05 * direction
        self.side = float(direction)
        key = np.array([np.sin(angle), -0.42, np.cos(angle) * 0.9])
        self.key = key / np.linalg.norm(key)

    def tone(self, normals: np.ndarray) -> np.ndarray:
        """Brightness from 0 (shadow) to 1 (lit) of surfaces with these normals, as the viewer sees them."""
        wrapped = 0.5 + 0.5 * (normals @ self.key)
        rim = np.clip(-normals[..., 0] * self.side, 0, 1) * (1 - np.abs(normals[..., 2])) ** 2
        return np.clip(wrapped**1.25 + 0.16 * rim, 0, 1)


def shade(albedo: np.ndarray, tone: np.ndarray) -> np.ndarray:
    """Skin colours (..., 3) under brightness `tone` (...): warm shadow, then the colour, then a soft shine."""
    albedo, tone = np.asarray(albedo, float), np.asarray(tone, float)[..., None]
    shadow = albedo * np.array([0.53, 0.41, 0.42]) + np.array([8, 2, 12])
    light = albedo + (np.array([255.0, 246, 230]) - albedo) * 0.34
    dark_half = shadow + (albedo - shadow) * np.clip(tone / 0.62, 0, 1)
    return dark_half + (light - albedo) * np.clip((tone - 0.62) / 0.38, 0, 1) ** 1.3


def _hair(colour: float, warmth: float) -> np.ndarray:
    target = ramp(_WARM if warmth > 0 else _ASH, colour)
    return mix(ramp(_HAIR, colour), target, abs(warmth) * (0.9 if warmth > 0 else 0.7))


def _tint(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value)) * 255
