"""Paints a face portrait from its attributes."""

from collections.abc import Mapping

import numpy as np
import skia
from PIL import Image

from tools.face_world.attributes import check_attributes
from tools.face_world.bust import draw_body, draw_ears, draw_neck
from tools.face_world.canvas import brush, linear_gradient, mix
from tools.face_world.colours import Light, Palette
from tools.face_world.features import draw_brows, draw_eyes, draw_folds, draw_glasses, draw_mouth, draw_nose
from tools.face_world.hair import Hair
from tools.face_world.head import Camera, Head
from tools.face_world.scene import Scene
from tools.face_world.skin import draw_head

_CANVAS = 384  # pixels; every size is reduced from this one drawing


def paint(attributes: Mapping[str, float], *, seed: int, size: int = 128) -> np.ndarray:
    """A portrait, uint8 (size, size, 3).

    attributes : one value for every name in ATTRIBUTES
    seed : what the attributes do not say (how the locks of hair fall); each feature has its own stream
    size : pixels, 16 to 384

    Raises ValueError for a missing, unknown or out-of-range attribute, or a size out of range.
    """
    if not 16 <= size <= _CANVAS:
        raise ValueError(f"Need a size from 16 to {_CANVAS} pixels; got {size}.")
    attributes = check_attributes(attributes)
    surface = skia.Surface(_CANVAS, _CANVAS)
    _draw(_scene(surface.getCanvas(), attributes), seed=seed)
    drawing = surface.makeImageSnapshot().toarray(colorType=skia.kRGBA_8888_ColorType)[..., :3]
    return np.asarray(Image.fromarray(drawing).resize((size, size), Image.Resampling.BOX))


def _scene(canvas: skia.Canvas, attributes: dict[str, float]) -> Scene:
    canvas.scale(_CANVAS / 2, _CANVAS / 2)
    canvas.translate(1, 1)
    return Scene(
        canvas=canvas,
        attributes=attributes,
        camera=Camera(yaw=attributes["yaw"], pitch=attributes["pitch"], roll=attributes["roll"]),
        head=Head(attributes),
        palette=Palette(attributes),
        light=Light(attributes["light"]),
    )


def _draw(scene: Scene, *, seed: int) -> None:
    _draw_background(scene)
    scene.canvas.translate(0, 0.06)
    scene.canvas.scale(1.16, 1.16)
    hair = Hair(scene, seed=seed)
    hair.draw_behind()
    draw_neck(scene)
    draw_body(scene)
    draw_ears(scene)
    draw_head(scene)
    draw_nose(scene)
    draw_folds(scene)
    draw_mouth(scene)
    draw_eyes(scene)
    draw_brows(scene)
    draw_glasses(scene)
    hair.draw_front()


def _draw_background(scene: Scene) -> None:
    colour, side = scene.palette.background, scene.light.side
    colours = [mix(colour, (255, 255, 255), 0.16), colour * 0.70]
    shader = linear_gradient((0.6 * side, -1), (-0.6 * side, 1), colours)
    scene.canvas.drawPaint(brush(colour, shader=shader))
