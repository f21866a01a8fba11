"""The shape of a head: a smooth solid with a nose, seen by a camera that can turn it.

Lengths are in canvas units: the picture spans -1 to 1, x to the right, y down, z towards the viewer.
"""

from collections.abc import Mapping

import numpy as np

from tools.face_world.canvas import smoothstep

CROWN = 0.62  # height of the skull above the centre
PIVOT = np.array([0.0, 0.22, -0.10])  # top of the neck: the head turns about it
PERSPECTIVE = 0.13


class Camera:
    """Turns points of the head and flattens them into the picture; angles in radians."""

    def __init__(self, *, yaw: float, pitch: float, roll: float):
        around_y = _rotation(yaw, 0, 2)
        around_x = _rotation(pitch, 1, 2)
        around_z = _rotation(-roll, 0, 1)
        self.rotation = around_z @ around_x @ around_y

    def turn(self, vectors: np.ndarray) -> np.ndarray:
        """Directions (..., 3) as the viewer sees them."""
        return vectors @ self.rotation.T

    def flatten(self, points: np.ndarray) -> np.ndarray:
        """Picture positions (..., 2) of points (..., 3)."""
        return self.flatten_with_depth(points)[0]

    def flatten_with_depth(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Picture positions (..., 2) and depths (...), larger is nearer."""
        turned = self.turn(np.asarray(points, float) - PIVOT) + PIVOT
        near = 1 / (1 - PERSPECTIVE * turned[..., 2])
        return turned[..., :2] * near[..., None], turned[..., 2]


class Head:
    """The solid: horizontal sections are ovals, plus soft bumps on the front for nose, brows and cheeks."""

    def __init__(self, attributes: Mapping[str, float]):
        age, gender = attributes["age"], attributes["gender"]
        self.cheer = float(0.5 + 0.5 * attributes["smile"]) ** 1.3
        self.attributes = attributes
        self.half_width = 0.455 * (1 + 0.14 * attributes["face_width"]) * (1.04 - 0.07 * age)
        self.chin = 0.530 + 0.105 * age - 0.026 * gender
        self.jaw_exponent = 0.82 + 0.17 * gender - 0.10 * attributes["jaw"] - 0.05 * age
        self.nose_y = 0.155 + 0.048 * age + 0.015 * attributes["nose_size"]
        self.nose_scale = (0.70 + 0.46 * age) * (1 + 0.2 * attributes["nose_size"]) * (1 - 0.1 * gender)
        self.mouth_y = self.nose_y + 0.19 + 0.02 * age
        self.eye_y = -0.015 - 0.030 * age
        self.eye_x = 0.195 * (self.half_width / 0.455) ** 0.6
        self.bumps = self._bumps(age, gender, self.cheer)

    def section(self, y) -> tuple[np.ndarray, ...]:
        """Half width, front, centre and back (z) of the section at height y."""
        y = np.asarray(y, float)
        t = np.clip(np.where(y < 0, y / CROWN, y / self.chin), -1, 1)
        s = np.sqrt(1 - t * t)
        exponent = 0.72 + (self.jaw_exponent - 0.72) * smoothstep(-0.2, 0.8, t)
        width = self.half_width * s**exponent
        centre = 0.30 * smoothstep(0.1, 1.0, t)
        return width, centre + (0.47 - centre) * s**0.55, centre, 0.47 * s**0.8

    def surface(self, around, y) -> np.ndarray:
        """Points (..., 3) at angle `around` (0 in front, radians) and height y."""
        width, front, centre, back = self.section(y)
        x = width * np.sin(around)
        forward = np.cos(around)
        z = centre + np.where(forward > 0, front - centre, centre + back) * forward
        z = z + self.relief(x, y) * smoothstep(0.0, 0.35, forward)
        return np.stack(np.broadcast_arrays(x, y, z), axis=-1)

    def on_face(self, x, y, lift: float = 0.0) -> np.ndarray:
        """Points (..., 3) of the face at x and y, `lift` above the skin."""
        x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
        around = np.arcsin(np.clip(x / np.maximum(self.section(y)[0], 1e-6), -0.985, 0.985))
        point = self.surface(around, y)
        outward = np.stack([np.sin(around), np.zeros_like(x), np.cos(around)], axis=-1)
        return point + lift * outward

    def relief(self, x, y) -> np.ndarray:
        """Height of the nose and the bumps over the smooth oval."""
        x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
        height = self._nose(x, y)
        for cx, cy, sx, sy, amount in self.bumps:
            height = height + amount * np.exp(-(((np.abs(x) - cx) / sx) ** 2) - ((y - cy) / sy) ** 2)
        return height

    def _bumps(self, age: float, gender: float, cheer: float) -> tuple[tuple[float, ...], ...]:
        """Pairs left and right: centre x, centre y, spread x, spread y, height."""
        return (
            (self.eye_x, self.eye_y + 0.01, 0.11, 0.075, -0.035 - 0.012 * age),  # eye sockets
            (0.12, self.eye_y - 0.11, 0.14, 0.045, 0.014 - 0.008 * gender),  # brow ridge
            (0.25, 0.15 - 0.02 * cheer, 0.10, 0.085, 0.022 + 0.022 * cheer - 0.006 * age),  # cheeks
            (0.27, 0.33, 0.08, 0.10, -0.034 * age + 0.012 * (1 - age)),  # hollow of the cheek
            (0.0, self.chin - 0.09, 0.09, 0.06, 0.03 - 0.008 * gender),  # chin
            (0.0, self.mouth_y, 0.14, 0.06, 0.022),  # lips
        )

    def _nose(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        start = self.eye_y - 0.05
        along = np.clip((y - start) / (self.nose_y - start), 0, None)
        ridge = 0.028 * smoothstep(-0.25, 0.3, (y - start) / (self.nose_y - start)) + 0.105 * along**1.6
        below = 1 - smoothstep(self.nose_y + 0.005, self.nose_y + 0.06, y)
        spread = 0.040 + 0.028 * np.clip(along, 0, 1.2) ** 2
        blade = np.minimum(ridge, 0.15) * below * np.exp(-((x / (spread * self.nose_scale**0.7)) ** 2))
        wing_x, wing_y = 0.068 * self.nose_scale, self.nose_y + 0.008
        wings = 0.045 * np.exp(-(((np.abs(x) - wing_x) / 0.028) ** 2) - ((y - wing_y) / 0.032) ** 2)
        return self.nose_scale * (blade + wings)


def normals(points: np.ndarray) -> np.ndarray:
    """Unit normals (rows, columns, 3) of a grid whose rows go down and columns go left to right."""
    normal = np.cross(np.gradient(points, axis=1), np.gradient(points, axis=0))
    return normal / (np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-12)


def _rotation(angle: float, first: int, second: int) -> np.ndarray:
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = np.sin(angle), -np.sin(angle)
    return matrix
