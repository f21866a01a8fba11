"""Pictures for the simulated viewing task: scenes of small objects, one in each region, drawn from a seed."""

import colorsys
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLING = 3


@dataclass(frozen=True)
class Pen:
    """Draws shapes given in an object's own coordinates: -1 to 1, y up, before rotation and scaling.

    centre, radius : pixels of the canvas; angle : radians
    """

    draw: ImageDraw.ImageDraw
    centre: tuple[float, float]
    radius: float
    angle: float

    def polygon(self, points: Sequence[tuple[float, float]], color: tuple[int, ...]) -> None:
        """A filled polygon."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        x, y = np.asarray(points, dtype=float).T
        across = self.centre[0] + self.radius * (cos * x + sin * y)
        down = self.centre[1] + self.radius * (sin * x - cos * y)
        self.draw.polygon(list(zip(across.tolist(), down.tolist(), strict=True)), fill=color)

    def ellipse(
        self, x: float, y: float, width: float, height: float, color, start=0.0, stop=2 * np.pi
    ) -> None:
        """A filled ellipse, or its segment between two angles; width and height are half axes."""
        turn = np.linspace(start, stop, 40)
        self.polygon(np.column_stack([x + width * np.cos(turn), y + height * np.sin(turn)]), color)

    def line(self, points: Sequence[tuple[float, float]], width: float, color) -> None:
        """A line with round joints."""
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            length = max(np.hypot(x1 - x0, y1 - y0), 1e-9)
            dx, dy = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
            self.polygon(
                [(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)], color
            )
        for x, y in points:
            self.ellipse(x, y, width / 2, width / 2, color)


def draw_scene(
    kinds: Sequence[str],
    boxes: Sequence[tuple[int, int, int, int]],
    *,
    size: int = 224,
    seed: Sequence[int] = (0,),
) -> np.ndarray:
    """A picture with one object in each box; uint8 (size, size, 3).

    kinds : names of `KINDS`
    boxes : (top, left, bottom, right) in pixels, one per kind
    seed : integers; each object has a random stream of its own, so it does not depend on its neighbours
    """
    scene = _background(size, np.random.default_rng([*seed, len(boxes)]))
    draw = ImageDraw.Draw(scene, "RGBA")
    for k, (kind, (top, left, bottom, right)) in enumerate(zip(kinds, boxes, strict=True)):
        rng = np.random.default_rng([*seed, k, list(KINDS).index(kind)])
        room = min(bottom - top, right - left) * SUPERSAMPLING / 2
        radius = room * rng.uniform(0.62, 0.76)
        slack = room * 0.94 - radius
        x = (left + right) / 2 * SUPERSAMPLING + rng.uniform(-slack, slack)
        y = (top + bottom) / 2 * SUPERSAMPLING + rng.uniform(-slack, slack)
        shadow = Pen(draw, (x, y + 0.97 * radius), radius, 0.0)
        for grow in (1.0, 0.8, 0.6):
            shadow.ellipse(0, 0, 0.75 * grow, 0.11 * grow, (50, 50, 80, 22))
        KINDS[kind](Pen(draw, (x, y), radius, rng.uniform(-0.14, 0.14)), rng)
    return np.asarray(scene.resize((size, size), Image.Resampling.BOX))


def _background(size: int, rng: np.random.Generator) -> Image.Image:
    """A pale gradient with soft clouds of colour."""
    hue = rng.uniform()
    corners = [
        _color(rng, hue + rng.uniform(-0.12, 0.12), rng.uniform(0.06, 0.2), 0.97, 0) for _ in range(16)
    ]
    coarse = np.array(corners, dtype=np.uint8).reshape(4, 4, 3)
    return Image.fromarray(coarse).resize((size * SUPERSAMPLING,) * 2, Image.Resampling.BICUBIC)


def _color(rng, hue: float, saturation: float, value: float, spread: float = 0.06) -> tuple[int, int, int]:
    """A colour near the given one; all from 0 to 1."""
    s = np.clip(saturation + rng.uniform(-spread, spread), 0, 1)
    v = np.clip(value + rng.uniform(-spread, spread), 0, 1)
    red, green, blue = colorsys.hsv_to_rgb((hue + rng.uniform(-spread, spread) / 2) % 1.0, s, v)
    return round(255 * red), round(255 * green), round(255 * blue)


def _shade(color: tuple[int, ...], by: float) -> tuple[int, ...]:
    """Darker for by < 1, lighter for by > 1."""
    target = 0 if by < 1 else 255
    return tuple(round(c + (target - c) * abs(1 - by)) for c in color)


def _sun(pen: Pen, rng: np.random.Generator) -> None:
    color = _color(rng, rng.uniform(0.09, 0.15), 0.85, 0.98)
    n_rays = int(rng.integers(9, 14))
    for turn in np.arange(n_rays) * 2 * np.pi / n_rays:
        edge = [(0.62 * np.cos(turn + d), 0.62 * np.sin(turn + d)) for d in (-0.17, 0.17)]
        pen.polygon([*edge, (0.98 * np.cos(turn), 0.98 * np.sin(turn))], _shade(color, 0.92))
    pen.ellipse(0, 0, 0.58, 0.58, color)
    pen.ellipse(-0.08, 0.1, 0.42, 0.4, _shade(color, 1.25))
    for x in (-0.19, 0.19):
        pen.ellipse(x, 0.1, 0.06, 0.08, (110, 70, 30))
        pen.ellipse(1.55 * x, -0.08, 0.09, 0.06, (250, 150, 110))
    pen.line(
        [(0.2 * np.sin(a), -0.05 - 0.17 * np.cos(a)) for a in np.linspace(-1, 1, 8)], 0.05, (110, 70, 30)
    )


def _tree(pen: Pen, rng: np.random.Generator) -> None:
    bark, leaf = _color(rng, 0.07, 0.55, 0.5), _color(rng, rng.uniform(0.22, 0.4), 0.6, 0.62)
    pen.polygon([(-0.16, -0.95), (-0.09, 0.1), (0.09, 0.1), (0.16, -0.95)], bark)
    pen.polygon([(0.03, -0.95), (0.03, 0.1), (0.09, 0.1), (0.16, -0.95)], _shade(bark, 0.8))
    crown = [
        (-0.42, 0.02, 0.4),
        (0.42, 0.02, 0.4),
        (-0.26, 0.42, 0.4),
        (0.28, 0.42, 0.38),
        (0, 0.55, 0.42),
        (0, 0.12, 0.45),
    ]
    for x, y, r in crown:
        pen.ellipse(x, y, r, r, _shade(leaf, 0.86))
    for x, y, r in crown:
        pen.ellipse(x - 0.06, y + 0.07, 0.8 * r, 0.8 * r, leaf)
    pen.ellipse(-0.18, 0.6, 0.2, 0.16, _shade(leaf, 1.2))
    for _ in range(6):
        pen.ellipse(
            rng.uniform(-0.5, 0.5), rng.uniform(-0.1, 0.7), 0.065, 0.065, _color(rng, 0.0, 0.75, 0.88)
        )


def _house(pen: Pen, rng: np.random.Generator) -> None:
    wall, roof = (
        _color(rng, rng.uniform(), 0.22, 0.94),
        _color(rng, rng.choice([0.01, 0.03, 0.6]), 0.65, 0.72),
    )
    pen.polygon([(0.36, 0.5), (0.36, 0.95), (0.56, 0.95), (0.56, 0.3)], _shade(roof, 0.75))
    pen.polygon([(-0.72, -0.92), (-0.72, 0.1), (0.72, 0.1), (0.72, -0.92)], wall)
    pen.polygon([(0.5, -0.92), (0.5, 0.1), (0.72, 0.1), (0.72, -0.92)], _shade(wall, 0.9))
    pen.polygon([(-0.95, 0.06), (0, 0.88), (0.95, 0.06)], roof)
    pen.polygon([(-0.95, 0.06), (-0.82, 0.06), (0, 0.76), (0, 0.88)], _shade(roof, 1.2))
    door = _color(rng, rng.uniform(), 0.6, 0.6)
    pen.polygon([(-0.14, -0.92), (-0.14, -0.35), (0.16, -0.35), (0.16, -0.92)], door)
    pen.ellipse(0.01, -0.35, 0.15, 0.12, door, 0, np.pi)
    pen.ellipse(0.1, -0.62, 0.03, 0.03, (250, 220, 120))
    for x in (-0.45, 0.45):
        pen.polygon(
            [(x - 0.17, -0.48), (x - 0.17, -0.08), (x + 0.17, -0.08), (x + 0.17, -0.48)], (255, 252, 240)
        )
        pen.polygon(
            [(x - 0.13, -0.44), (x - 0.13, -0.12), (x + 0.13, -0.12), (x + 0.13, -0.44)], (145, 195, 230)
        )
        pen.line([(x, -0.44), (x, -0.12)], 0.035, (255, 252, 240))
        pen.line([(x - 0.13, -0.28), (x + 0.13, -0.28)], 0.035, (255, 252, 240))


def _flower(pen: Pen, rng: np.random.Generator) -> None:
    stem, petal = _color(rng, 0.31, 0.65, 0.6), _color(rng, rng.uniform(0.72, 1.02), 0.55, 0.93)
    pen.line([(0.02, -0.95), (-0.04, -0.5), (0, 0.2)], 0.09, stem)
    for side in (-1, 1):
        leaf = [(0.0, -0.75), (side * 0.28, -0.42), (side * 0.58, -0.38), (side * 0.4, -0.66)]
        pen.polygon(leaf, _shade(stem, 1.15 if side < 0 else 0.9))
    n_petals = int(rng.integers(6, 9))
    for turn in np.arange(n_petals) * 2 * np.pi / n_petals:
        pen.ellipse(0.37 * np.cos(turn), 0.35 + 0.37 * np.sin(turn), 0.25, 0.25, _shade(petal, 0.88))
        pen.ellipse(0.35 * np.cos(turn), 0.35 + 0.35 * np.sin(turn), 0.2, 0.2, petal)
    pen.ellipse(0, 0.35, 0.22, 0.22, (235, 165, 40))
    pen.ellipse(-0.04, 0.4, 0.14, 0.13, (255, 210, 90))


def _fish(pen: Pen, rng: np.random.Generator) -> None:
    color = _color(rng, rng.choice([0.04, 0.07, 0.52, 0.58]), 0.7, 0.92)
    pen.polygon([(0.45, 0), (0.98, 0.48), (0.86, 0), (0.98, -0.48)], _shade(color, 0.82))
    pen.polygon([(-0.3, 0.3), (0.05, 0.7), (0.4, 0.24)], _shade(color, 0.82))
    pen.polygon([(-0.1, -0.3), (0.15, -0.62), (0.32, -0.26)], _shade(color, 0.82))
    pen.ellipse(-0.15, 0, 0.78, 0.45, color)
    pen.ellipse(-0.17, -0.14, 0.62, 0.25, _shade(color, 1.35))
    for x in (-0.28, 0.02, 0.3):
        pen.line(
            [(x + 0.1 * np.cos(a), 0.33 * np.sin(a)) for a in np.linspace(-1.1, 1.1, 9)],
            0.06,
            (255, 255, 250),
        )
    pen.ellipse(-0.6, 0.12, 0.12, 0.12, (255, 255, 255))
    pen.ellipse(-0.62, 0.12, 0.065, 0.07, (30, 30, 50))
    for k, y in enumerate((0.35, 0.6, 0.85)):
        pen.ellipse(-0.92 + 0.08 * k, y, 0.05 + 0.02 * k, 0.05 + 0.02 * k, (170, 215, 245))


def _boat(pen: Pen, rng: np.random.Generator) -> None:
    hull, sail = (
        _color(rng, rng.choice([0.0, 0.06, 0.62]), 0.65, 0.65),
        _color(rng, rng.uniform(), 0.18, 0.99),
    )
    pen.line([(0, -0.5), (0, 0.95)], 0.07, (120, 85, 55))
    pen.polygon([(0.07, 0.9), (0.07, -0.32), (0.8, -0.32)], sail)
    pen.polygon([(0.07, 0.2), (0.07, -0.02), (0.62, -0.02), (0.49, 0.2)], _color(rng, 0.0, 0.7, 0.88))
    pen.polygon([(-0.07, 0.72), (-0.07, -0.32), (-0.62, -0.32)], _shade(sail, 0.9))
    pen.polygon([(0.0, 0.98), (0.0, 0.84), (0.24, 0.91)], (225, 60, 60))
    pen.polygon([(-0.9, -0.42), (0.95, -0.42), (0.62, -0.85), (-0.6, -0.85)], hull)
    pen.polygon([(-0.9, -0.42), (0.95, -0.42), (0.88, -0.52), (-0.83, -0.52)], _shade(hull, 1.45))
    for x in (-0.35, 0.0, 0.35):
        pen.ellipse(x, -0.66, 0.07, 0.07, (250, 245, 220))
    wave = [(x, -0.86 + 0.05 * np.sin(9 * x)) for x in np.linspace(-0.98, 0.98, 30)]
    pen.polygon([*wave, (0.9, -1.0), (-0.9, -1.0)], (95, 165, 215))


def _mushroom(pen: Pen, rng: np.random.Generator) -> None:
    cap = _color(rng, rng.choice([0.0, 0.02, 0.08]), 0.75, 0.82)
    pen.polygon([(-0.24, 0.05), (-0.32, -0.85), (0.32, -0.85), (0.24, 0.05)], (247, 236, 214))
    pen.ellipse(0, -0.85, 0.32, 0.12, (247, 236, 214))
    pen.polygon([(0.08, 0.05), (0.1, -0.9), (0.32, -0.85), (0.24, 0.05)], (228, 212, 186))
    pen.ellipse(0, 0.02, 0.86, 0.17, (216, 190, 160))
    pen.ellipse(0, 0.02, 0.92, 0.88, cap, 0, np.pi)
    pen.ellipse(0, 0.02, 0.92, 0.12, cap)
    spots = [
        (-0.5, 0.24, 0.13),
        (-0.12, 0.58, 0.15),
        (0.34, 0.44, 0.14),
        (0.12, 0.18, 0.11),
        (0.64, 0.14, 0.09),
        (-0.42, 0.55, 0.07),
    ]
    for x, y, r in spots:
        pen.ellipse(x, y, r, 0.85 * r, (255, 250, 240))


def _balloon(pen: Pen, rng: np.random.Generator) -> None:
    first, second = _color(rng, hue := rng.uniform(), 0.65, 0.9), _color(rng, hue + 0.4, 0.35, 0.98)
    for x in (-0.3, 0.3):
        pen.line([(x * 1.3, -0.15), (x * 0.6, -0.64)], 0.03, (120, 95, 70))
    for k, width in enumerate((0.72, 0.5, 0.24)):
        pen.ellipse(0, 0.3, width, 0.66, (first, second, first)[k])
        pen.polygon(
            [(-width, 0.22), (width, 0.22), (width * 0.32, -0.38), (-width * 0.32, -0.38)],
            (first, second, first)[k],
        )
    pen.ellipse(-0.34, 0.52, 0.1, 0.2, _shade(second, 1.6))
    pen.polygon([(-0.24, -0.36), (0.24, -0.36), (0.2, -0.44), (-0.2, -0.44)], _shade(first, 0.7))
    pen.polygon([(-0.22, -0.62), (0.22, -0.62), (0.17, -0.95), (-0.17, -0.95)], (178, 128, 74))
    pen.line([(-0.22, -0.63), (0.22, -0.63)], 0.07, (140, 95, 52))


def _star(pen: Pen, rng: np.random.Generator) -> None:
    color = _color(rng, rng.uniform(0.11, 0.16), 0.75, 0.98)
    turns = np.pi / 2 + np.arange(10) * np.pi / 5
    points = [(r * np.cos(a), r * np.sin(a) - 0.05) for r, a in zip([0.98, 0.46] * 5, turns, strict=True)]
    pen.polygon(points, color)
    for k in range(0, 10, 2):
        pen.polygon([points[k], points[(k + 1) % 10], (0, -0.05)], _shade(color, 0.86))
        pen.polygon([points[k], points[k - 1], (0, -0.05)], _shade(color, 1.3))


def _heart(pen: Pen, rng: np.random.Generator) -> None:
    color = _color(rng, rng.uniform(0.92, 1.0), 0.72, 0.88)
    turn = np.linspace(0, 2 * np.pi, 80)
    x = np.sin(turn) ** 3
    y = (13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)) / 17
    pen.polygon(np.column_stack([0.94 * x, 0.94 * y + 0.05]), _shade(color, 0.85))
    pen.polygon(np.column_stack([0.86 * x - 0.03, 0.86 * y + 0.08]), color)
    pen.ellipse(-0.45, 0.5, 0.17, 0.12, _shade(color, 1.6))


def _cup(pen: Pen, rng: np.random.Generator) -> None:
    color, stripe = _color(rng, hue := rng.uniform(), 0.5, 0.86), _color(rng, hue + 0.5, 0.25, 0.98)
    ring = [(0.52 + 0.33 * np.cos(a), -0.2 + 0.3 * np.sin(a)) for a in np.linspace(-1.6, 1.6, 16)]
    pen.line(ring, 0.13, _shade(color, 0.85))
    pen.ellipse(-0.08, -0.8, 0.85, 0.15, _shade(color, 1.35))
    pen.polygon([(-0.68, 0.2), (0.55, 0.2), (0.4, -0.78), (-0.53, -0.78)], color)
    pen.ellipse(-0.065, -0.78, 0.465, 0.1, color)
    pen.polygon([(-0.645, 0.0), (0.52, 0.0), (0.475, -0.3), (-0.6, -0.3)], stripe)
    pen.ellipse(-0.065, 0.2, 0.615, 0.15, _shade(color, 1.5))
    pen.ellipse(-0.065, 0.19, 0.53, 0.11, (96, 60, 38))
    for x in (-0.3, -0.05, 0.2):
        steam = [(x + 0.07 * np.sin(7 * y), y) for y in np.linspace(0.42, 0.9, 9)]
        pen.line(steam, 0.06, (225, 225, 235))


def _cactus(pen: Pen, rng: np.random.Generator) -> None:
    green, pot = _color(rng, rng.uniform(0.34, 0.42), 0.5, 0.6), _color(rng, 0.05, 0.6, 0.78)
    pen.line([(-0.02, -0.1), (-0.52, -0.05), (-0.52, 0.35)], 0.2, _shade(green, 0.9))
    pen.line([(0.02, 0.1), (0.5, 0.14), (0.5, 0.5)], 0.19, _shade(green, 0.9))
    pen.line([(0, -0.5), (0, 0.62)], 0.44, green)
    for x in (-0.11, 0.0, 0.11):
        pen.line([(x, -0.45), (x, 0.68)], 0.025, _shade(green, 1.35))
    for x, y in ((0, 0.86), (-0.52, 0.5), (0.5, 0.63)):
        pen.ellipse(x, y, 0.12, 0.1, _color(rng, 0.92, 0.6, 0.95))
        pen.ellipse(x, y, 0.05, 0.04, (255, 230, 120))
    pen.polygon([(-0.42, -0.45), (0.42, -0.45), (0.31, -0.96), (-0.31, -0.96)], pot)
    pen.polygon([(-0.49, -0.38), (0.49, -0.38), (0.47, -0.56), (-0.47, -0.56)], _shade(pot, 1.2))


KINDS: dict[str, Callable[[Pen, np.random.Generator], None]] = {
    "sun": _sun,
    "tree": _tree,
    "house": _house,
    "flower": _flower,
    "fish": _fish,
    "boat": _boat,
    "mushroom": _mushroom,
    "balloon": _balloon,
    "star": _star,
    "heart": _heart,
    "cup": _cup,
    "cactus": _cactus,
}
