"""What the drawing of one face shares: canvas, attributes, head, camera, colours and light."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import skia

from tools.face_world.canvas import brush, curve
from tools.face_world.colours import Light, Palette
from tools.face_world.head import Camera, Head


@dataclass(frozen=True)
class Scene:
    """All that a feature needs to draw itself.

    canvas : spans -1 to 1 in both directions
    """

    canvas: skia.Canvas
    attributes: Mapping[str, float]
    camera: Camera
    head: Head
    palette: Palette
    light: Light

    @property
    def cheer(self) -> float:
        """The happy part of the smile, 0 to 1."""
        return self.head.cheer

    def at(self, x, y, lift: float = 0.0) -> np.ndarray:
        """Picture positions of places on the face."""
        return self.camera.flatten(self.head.on_face(x, y, lift))

    def line(self, points, colour, *, alpha: float, width: float, blur: float = 0.0) -> None:
        """A soft line through picture positions."""
        if alpha > 0.003:
            self.canvas.drawPath(curve(points), brush(colour, alpha=alpha, width=width, blur=blur))
