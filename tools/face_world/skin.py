"""The skin of the head and the beard that grows on it, as one shaded mesh."""

import numpy as np

from tools.face_world.canvas import draw_mesh, mix, smoothstep
from tools.face_world.colours import shade
from tools.face_world.head import CROWN, normals
from tools.face_world.scene import Scene

_ROWS, _COLUMNS = 84, 76


def draw_head(scene: Scene) -> None:
    """The solid with its light, its complexion and its beard."""
    head = scene.head
    s = np.linspace(-1, 1, _COLUMNS)
    around = 2.15 * (0.42 * s + 0.58 * s**3)[None, :]
    t = -np.cos(np.pi * np.linspace(0.004, 0.998, _ROWS))[:, None]
    y = np.where(t < 0, t * CROWN, t * head.chin)
    points = head.surface(around, y)
    cover = _beard_cover(scene, points, around)
    normal = normals(points)
    points = points + normal * (0.10 * scene.attributes["beard"] * cover)[..., None]
    normal = scene.camera.turn(normals(points))
    flat, depth = scene.camera.flatten_with_depth(points)
    tone = scene.light.tone(normal) * _hollows(scene, points)
    colours = shade(_complexion(scene, points), tone)
    draw_mesh(scene.canvas, flat, depth, _with_beard(scene, colours, tone, cover), front=True)


def _complexion(scene: Scene, points: np.ndarray) -> np.ndarray:
    """Colour of the skin without light: rosy cheeks and nose, more so when young."""
    a, head, palette = scene.attributes, scene.head, scene.palette
    x, y = np.abs(points[..., 0]), points[..., 1]
    cheek = np.exp(-(((x - 0.27) / 0.11) ** 2) - ((y - 0.16) / 0.09) ** 2)
    nose = np.exp(-((x / 0.09) ** 2) - ((y - head.nose_y) / 0.06) ** 2)
    rosy = (1 - 0.45 * a["skin_tone"]) * ((0.75 - 0.45 * a["age"]) * cheek + (0.22 + 0.2 * a["age"]) * nose)
    return mix(palette.skin, palette.blush, np.clip(rosy, 0, 1)[..., None])


def _hollows(scene: Scene, points: np.ndarray) -> np.ndarray:
    """Factor below 1 where little light reaches: eye sockets, under nose and lip, under the jaw."""
    head, aged = scene.head, scene.attributes["age"]
    x, y = np.abs(points[..., 0]), points[..., 1]
    socket = np.exp(-(((x - head.eye_x) / 0.12) ** 2) - ((y - head.eye_y + 0.02) / 0.07) ** 2)
    under_nose = np.exp(-((x / 0.075) ** 2) - ((y - head.nose_y - 0.060) / 0.026) ** 2)
    cheek = np.exp(-(((x - 0.285) / 0.075) ** 2) - ((y - 0.30) / 0.10) ** 2)
    jaw = smoothstep(0.86, 1.0, y / head.chin)
    face = (1 - (0.16 + 0.14 * aged) * socket) * (1 - 0.36 * under_nose)
    return face * (1 - 0.26 * aged * cheek) * (1 - 0.5 * jaw)


def _beard_cover(scene: Scene, points: np.ndarray, around: np.ndarray) -> np.ndarray:
    """0 to 1 where a full beard grows: cheeks below a line to the ear, moustache, chin; not the mouth."""
    head = scene.head
    x, y = np.abs(points[..., 0]), points[..., 1]
    line = head.mouth_y + 0.02 - 0.55 * np.clip(x - 0.16, 0, None) - 3.0 * np.clip(x - 0.33, 0, None)
    cheeks = smoothstep(-0.04, 0.04, y - line)
    moustache = smoothstep(0.045, 0.085, y - head.nose_y - 0.45 * x) * (1 - smoothstep(0.19, 0.25, x))
    mouth = np.exp(-(((x / 0.165) ** 4) + ((y - head.mouth_y - 0.02) / 0.062) ** 4))
    front = 1 - smoothstep(1.45, 1.75, np.abs(around))
    return np.clip(np.maximum(cheeks, moustache), 0, 1) * (1 - mouth) * front


def _with_beard(scene: Scene, colours: np.ndarray, tone: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Skin that turns to hair as the beard grows."""
    amount = scene.attributes["beard"]
    hair = mix(scene.palette.hair * 0.78, scene.palette.skin * 0.5, 0.20)
    grown = hair * (0.38 + 0.66 * tone[..., None])
    share = np.clip(1.7 * amount - 0.7 * amount**2, 0, 1)
    return mix(colours, grown, (cover * share * 0.97)[..., None])
