"""Hair: one sheet that lies on the skull from the crown to the hairline and hangs down where it is long."""

from collections.abc import Mapping

import numpy as np

from tools.face_world.canvas import draw_mesh, mix, shifted, smoothstep
from tools.face_world.head import CROWN, normals
from tools.face_world.scene import Scene

_LOCKS = 1  # the random stream of this feature
_ROWS, _COLUMNS, _CROWN_ROWS = 40, 97, 14


class Hair:
    """The hair of one face, ready to be drawn behind the head and in front of it."""

    def __init__(self, scene: Scene, *, seed: int):
        self.scene = scene
        self.around = np.linspace(-np.pi, np.pi, _COLUMNS)[None, :]
        self.down = (np.arange(_ROWS) / (_ROWS - 1))[:, None]
        self.locks = _smooth_noise(seed, _COLUMNS, waves=(9, 17, 31))
        points = self._points()
        self.flat, self.depth = scene.camera.flatten_with_depth(points)
        self.colours = self._colours(points)

    def draw_behind(self) -> None:
        """The inner side, seen past the neck."""
        inner = np.broadcast_to(self.scene.palette.hair * 0.42, self.colours.shape)
        draw_mesh(self.scene.canvas, self.flat, self.depth, inner, front=False)

    def draw_front(self) -> None:
        """The outer side and its soft shadow on the forehead."""
        front = _COLUMNS // 2
        rim = shifted(self.flat[-1, front - 18 : front + 19 : 3], -0.02 * self.scene.light.side, 0.018)
        self.scene.line(rim, self.scene.palette.deep, alpha=0.5, width=0.04, blur=0.018)
        turned = np.abs(self.around[0] + self.scene.attributes["yaw"])
        seen = np.flatnonzero(turned < 1.75)  # locks at the back of the head that fold outwards stay hidden
        for part in (np.s_[: _CROWN_ROWS + 1, :], np.s_[_CROWN_ROWS:, seen[0] : seen[-1] + 1]):
            draw_mesh(self.scene.canvas, self.flat[part], self.depth[part], self.colours[part], front=True)

    def _points(self) -> np.ndarray:
        """Along the skull down to its widest place, then straight down."""
        head = self.scene.head
        end = _ends(self.scene.attributes, self.around)
        y = -CROWN + (end + CROWN) * (1 - np.cos(self.down * np.pi / 2) ** 1.3)
        hang = np.maximum(y - 0.02, 0)
        points = head.surface(self.around, y - hang)
        points[..., 1] = y
        outward = points - [0.0, -0.08, -0.02]
        outward[..., 1] = np.minimum(outward[..., 1], 0)
        outward /= np.linalg.norm(outward, axis=-1, keepdims=True) + 1e-9
        return points + self._thickness(y, end, hang)[..., None] * outward

    def _thickness(self, y: np.ndarray, end: np.ndarray, hang: np.ndarray) -> np.ndarray:
        """Distance from the skull: volume, locks and curls, and ends that turn in towards the neck."""
        a = self.scene.attributes
        body = smoothstep(0.0, 0.30, a["hair_length"])
        curl = body * a["hair_curl"]
        below_crown = smoothstep(0.05, 0.40, self.down)
        edge = np.where(hang > 0, 1.0, 0.25 + 0.75 * smoothstep(0.0, 0.28, end - y))
        lock = 1 + 0.20 * body * self.locks * below_crown
        clouds = 0.026 * curl * np.sin(13 * self.around + 2 * self.locks) * np.sin(19 * y + 4 * self.locks)
        waves = 0.024 * curl * np.sin(16 * y + 2.5 * np.sin(self.around)) * smoothstep(0, 0.3, hang)
        falling = hang * (-0.13 + 0.20 * a["hair_volume"] + 0.10 * curl)
        tuck = -0.11 * smoothstep(0.78, 1.0, self.down) * smoothstep(0.0, 0.35, hang)
        return (
            self._volume(y, body, curl) * edge * lock + clouds * edge * below_crown + waves + falling + tuck
        )

    def _volume(self, y: np.ndarray, body: float, curl: float) -> np.ndarray:
        """Height over the skull; short hair lies close at the sides."""
        a = self.scene.attributes
        cropped = 1 - smoothstep(0.15, 0.45, a["hair_length"])
        sides = smoothstep(0.7, 1.3, np.abs(self.around)) * smoothstep(-0.55, -0.2, y)
        return (0.016 + body * (0.030 + 0.085 * a["hair_volume"] + 0.03 * curl)) * (
            1 - 0.65 * cropped * sides
        )

    def _colours(self, points: np.ndarray) -> np.ndarray:
        """Light on the sheet, darker tips, and the bright band that strands show across their length."""
        scene, hair = self.scene, self.scene.palette.hair
        normal = scene.camera.turn(normals(points))
        tone = scene.light.tone(normal) * (1 + 0.16 * self.locks) - 0.15 * smoothstep(0.85, 1.0, self.down)
        tone = np.clip(tone, 0, 1)[..., None]
        dark, light = hair * [0.46, 0.40, 0.42], mix(hair, (255, 240, 214), 0.15)
        colours = dark + (hair - dark) * np.clip(tone / 0.6, 0, 1)
        colours = colours + (light - hair) * np.clip((tone - 0.6) / 0.4, 0, 1)
        shine = 0.42 * self._shine(points, normal) * (1 + 0.3 * self.locks)
        return mix(colours, mix(hair, (255, 244, 224), 0.46), shine[..., None])

    def _shine(self, points: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """Highlight of strands (Kajiya and Kay, SIGGRAPH 1989, section 3.2), 0 to 1."""
        strand = self.scene.camera.turn(np.gradient(points, axis=0))
        strand /= np.linalg.norm(strand, axis=-1, keepdims=True) + 1e-9
        half = self.scene.light.key + np.array([0, 0, 1])
        half /= np.linalg.norm(half)
        return np.clip(1 - (strand @ half) ** 2, 0, 1) ** 14 * np.clip(normal[..., 2], 0, 1)


def _ends(attributes: Mapping[str, float], around: np.ndarray) -> np.ndarray:
    """Height where each strand ends, by angle: hairline in front, below the shoulders behind when long."""
    length, fringe, part = (attributes[k] for k in ("hair_length", "fringe", "hair_part"))
    front = np.abs(around)
    body = smoothstep(0.0, 0.30, length)
    sweep = 0.13 * np.minimum(np.abs(around - 0.75 * part), 1.1) ** 1.5
    forehead = -0.47 + body * (0.20 * fringe**1.7 + sweep)
    temple = forehead + (-0.08 - forehead) * smoothstep(0.62, 1.15, front)
    nape = temple + (0.24 - temple) * smoothstep(1.5, 2.1, front)
    hanging = -0.04 + 1.10 * length + 0.05 * smoothstep(1.2, 2.6, front)
    side = smoothstep(0.92, 1.38, front) * smoothstep(0.18, 0.45, length)
    return np.maximum(nape, nape + (hanging - nape) * side)


def _smooth_noise(seed: int, n: int, *, waves: tuple[int, ...]) -> np.ndarray:
    """(1, n) periodic noise, about -1 to 1."""
    rng = np.random.default_rng([seed, _LOCKS])
    angle = np.linspace(0, 2 * np.pi, n)
    noise = sum(np.sin(k * angle + rng.uniform(0, 2 * np.pi)) for k in waves)
    return noise[None, :] / len(waves)
