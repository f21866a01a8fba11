"""Neck, shoulders and ears."""

import numpy as np

from tools.face_world.canvas import brush, curve, draw_oval, linear_gradient, mix, shifted
from tools.face_world.colours import shade
from tools.face_world.scene import Scene


def draw_neck(scene: Scene) -> None:
    """Neck with the shadow of the chin."""
    a, palette, side = scene.attributes, scene.palette, scene.light.side
    half = 0.215 - 0.035 * a["gender"]
    right = np.array([[half, 0.20], [half * 0.97, 0.55], [half * 1.15, 0.74], [half * 2.2, 0.86]])
    outline = np.concatenate([right, right[::-1] * [-1, 1]])
    lit, dim = shade(palette.skin, 0.62), shade(palette.skin, 0.24)
    shader = linear_gradient((side * half, 0.95), (-side * half, 0.50), [lit, dim])
    path = curve(outline, closed=True)
    scene.canvas.drawPath(path, brush(palette.skin, shader=shader))
    scene.canvas.save()
    scene.canvas.clipPath(path, True)
    chin = scene.at(0.0, scene.head.chin - 0.06)
    shadow = brush(palette.deep * 0.8, alpha=0.7, blur=0.04)
    draw_oval(scene.canvas, shifted(chin, -0.06 * side, -0.02), (0.30, 0.17), shadow)
    scene.canvas.restore()


def draw_body(scene: Scene) -> None:
    """Shoulders in a plain garment."""
    a, cloth, side = scene.attributes, scene.palette.cloth, scene.light.side
    neck, shoulder = 0.225 - 0.035 * a["gender"], 0.80 - 0.08 * a["gender"]
    right = np.array([[neck * 0.62, 0.80], [neck * 1.15, 0.735], [0.48, 0.80], [shoulder, 0.93], [1.3, 1.35]])
    outline = np.concatenate([[[0.0, 0.835]], right, right[::-1] * [-1, 1]])
    colours = [mix(cloth, (255, 255, 255), 0.15), cloth * 0.62]
    shader = linear_gradient((0.8 * side, 0.6), (-0.8 * side, 1.0), colours)
    scene.canvas.drawPath(curve(outline, closed=True), brush(cloth, shader=shader))
    collar = np.concatenate([right[1::-1] * [-1, 1], [[0.0, 0.835]], right[:2]])
    scene.line(collar, cloth * 0.5, alpha=0.8, width=0.024, blur=0.004)


def draw_ears(scene: Scene) -> None:
    """Ears; the head covers the one that is turned away."""
    head, skin = scene.head, scene.palette.skin
    for side in (-1, 1):
        x = side * (head.half_width + np.array([-0.03, 0.045, 0.075, 0.062, 0.022, -0.03]))
        y = head.eye_y + np.array([-0.05, -0.09, -0.03, 0.08, 0.17, 0.15])
        points = np.stack([x, y, np.full(6, -0.06)], axis=-1)
        outline = scene.camera.flatten(points)
        tone = 0.40 + 0.22 * side * scene.light.side
        scene.canvas.drawPath(curve(outline, closed=True), brush(shade(skin, tone)))
        rim = outline[1:5] * 0.75 + outline[[0]] * 0.25
        scene.line(rim, shade(skin, tone * 0.45), alpha=0.6, width=0.016, blur=0.006)
