"""What sits on the face: eyes, brows, mouth, nostrils, folds and glasses."""

import numpy as np
import skia

from tools.face_world.canvas import brush, curve, draw_oval, mix, radial_gradient, shifted, smoothstep
from tools.face_world.head import Head
from tools.face_world.scene import Scene

_INK = np.array([34.0, 22, 26])


def draw_eyes(scene: Scene) -> None:
    """White, iris that looks at the viewer, lids and lashes."""
    for side in (-1, 1):
        upper, lower = _lids(scene, side)
        eye = curve(np.concatenate([upper, lower]), closed=True)
        scene.line(shifted(upper, 0, -0.030), scene.palette.deep, alpha=0.45, width=0.012, blur=0.005)
        scene.canvas.drawPath(eye, brush((247, 243, 240)))
        scene.canvas.save()
        scene.canvas.clipPath(eye, True)
        _draw_iris(scene, side)
        scene.line(shifted(upper, 0, 0.004), (70, 44, 50), alpha=0.5, width=0.030, blur=0.010)
        scene.canvas.restore()
        feminine = (scene.attributes["gender"] + 1) / 2
        scene.line(
            np.concatenate([upper[-1:], lower, upper[:1]]), scene.palette.deep * 0.8, alpha=0.45, width=0.008
        )
        scene.line(upper, _INK, alpha=0.92, width=0.012 + 0.011 * feminine)
        lash = np.stack([upper[-2], upper[-1], upper[-1] + [side * 0.036, -0.028]])
        scene.line(lash, _INK, alpha=0.9 * feminine, width=0.014)


def draw_brows(scene: Scene) -> None:
    """Brows in the colour of the hair, thick to thin with gender."""
    a, head = scene.attributes, scene.head
    thick = 0.028 - 0.014 * a["gender"]
    base = head.eye_y - 0.125 - 0.018 * a["brow_height"] - 0.008 * a["gender"]
    colour = mix(scene.palette.hair * 0.62, (40, 26, 24), 0.15)
    for side in (-1, 1):
        x = head.eye_x + np.array([-0.105, -0.02, 0.065, 0.135])
        droop = 0.020 * a["age"]
        y = (
            base
            + np.array([0.003, -0.011, -0.014, 0.020 + droop])
            - 0.010 * a["brow_tilt"] * np.linspace(-1, 1, 4)
        )
        half = np.array([0.8, 1.0, 0.8, 0.15]) * thick / 2 * 1.25
        outline = np.concatenate([scene.at(side * x, y - half), scene.at(side * x, y + half)[::-1]])
        scene.canvas.drawPath(curve(outline, closed=True), brush(colour, alpha=0.92, blur=0.003))


def draw_nose(scene: Scene) -> None:
    """Nostrils and the shine on the tip; the form itself is in the head."""
    head, deep = scene.head, scene.palette.deep
    x, y = 0.036 * head.nose_scale**0.8, head.nose_y + 0.042
    for side in (-1, 1):
        nostril = scene.at(side * x, y)
        draw_oval(scene.canvas, nostril, (0.021, 0.011), brush(deep * 0.55, alpha=0.75, blur=0.005))
        wing = scene.at(
            side * np.array([0.080, 0.098, 0.082]) * head.nose_scale, y + np.array([-0.07, -0.035, 0.002])
        )
        scene.line(wing, deep, alpha=0.35, width=0.012, blur=0.006)
    tip = scene.at(0.018 * scene.light.side, head.nose_y - 0.03)
    draw_oval(scene.canvas, tip, (0.026, 0.022), brush((255, 250, 240), alpha=0.34, blur=0.012))


def draw_mouth(scene: Scene) -> None:
    """Lips that bend and widen with the smile; teeth show as it grows and as the mouth opens."""
    palette, canvas = scene.palette, scene.canvas
    shape = _mouth(scene)
    canvas.drawPath(
        curve(scene.at(shape["x"][1:-1] * 0.7, shape["under"][1:-1] + 0.050)),
        brush(palette.deep, alpha=0.34, width=0.030, blur=0.014),
    )
    at = {key: scene.at(shape["x"], shape[key]) for key in ("top", "upper", "lower", "bottom")}
    inside = curve(np.concatenate([at["upper"], at["lower"][::-1]]), closed=True)
    canvas.drawPath(inside, brush((88, 26, 34)))
    _draw_teeth(scene, shape, inside)
    lower = curve(np.concatenate([at["lower"], at["bottom"][-2:0:-1]]), closed=True)
    upper = curve(np.concatenate([at["top"], at["upper"][-2:0:-1]]), closed=True)
    canvas.drawPath(lower, brush(mix(palette.lips, (255, 235, 225), 0.10)))
    canvas.drawPath(upper, brush(palette.lips * 0.86))
    scene.line(at["upper"], palette.lips * 0.42, alpha=0.75, width=0.009)
    corner = palette.deep * 0.75
    for point in (at["upper"][0], at["upper"][-1]):
        draw_oval(canvas, point, (0.014, 0.012), brush(corner, alpha=0.5, blur=0.007))
    shine = (at["lower"][4] * 0.55 + at["bottom"][4] * 0.45) + [0.02 * scene.light.side, 0]
    draw_oval(canvas, shine, (0.040, 0.010), brush((255, 240, 232), alpha=0.34, blur=0.008))


def draw_folds(scene: Scene) -> None:
    """Lines of age and of laughing."""
    a, head = scene.attributes, scene.head
    aged, cheer = float(np.clip((a["age"] - 0.22) / 0.78, 0, 1)), scene.cheer
    deep = scene.palette.deep
    for side in (-1, 1):
        _draw_cheek_folds(scene, side, aged=aged, cheer=cheer)
        eye = side * head.eye_x
        bag = scene.at(
            eye + side * np.array([-0.095, -0.01, 0.085]), head.eye_y + np.array([0.075, 0.110, 0.080])
        )
        scene.line(bag, deep, alpha=0.10 + 0.60 * aged, width=0.014, blur=0.006)
        for k in range(3):
            x = eye + side * np.array([0.135, 0.190])
            crow = scene.at(x, head.eye_y + 0.028 * (k - 1) + np.array([0.0, 0.026 * (k - 1) - 0.004]))
            scene.line(crow, deep, alpha=0.62 * aged + 0.16 * cheer, width=0.009, blur=0.003)
        frown = scene.at(side * np.array([0.034, 0.030]), head.eye_y + np.array([-0.12, -0.065]))
        scene.line(frown, deep, alpha=0.35 * aged, width=0.010, blur=0.004)
    x = np.linspace(-0.22, 0.22, 7)
    for k in range(3):
        y = head.eye_y - 0.205 - 0.055 * k + 0.012 * np.cos(9 * x + 1.1 * k)
        scene.line(scene.at(x, y), deep, alpha=0.62 * aged, width=0.013, blur=0.005)


def draw_glasses(scene: Scene) -> None:
    """A frame that grows from a pale wire to a thick dark rim."""
    amount = scene.attributes["glasses"]
    if amount <= 0:
        return
    strength, width = min(1.0, 0.25 + 1.5 * amount), 0.008 + 0.024 * amount
    rim = brush((36, 32, 40), alpha=strength, width=width)
    head, turn = scene.head, np.linspace(0, 2 * np.pi, 25)[:-1]
    round_x = np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** 0.75
    round_y = np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** 0.75
    for side in (-1, 1):
        x, y = side * (head.eye_x + 0.005) + 0.136 * round_x, head.eye_y + 0.020 + 0.108 * round_y
        lens = curve(scene.camera.flatten(_on_lens(head, x, y)), closed=True)
        shadow = skia.Path()
        shadow.addPath(lens, float(-0.018 * scene.light.side), 0.022)
        scene.canvas.drawPath(
            shadow, brush(scene.palette.deep, alpha=0.30 * strength, width=width, blur=0.008)
        )
        scene.canvas.drawPath(lens, brush((214, 232, 250), alpha=0.16 * strength))
        scene.canvas.drawPath(lens, rim)
        _draw_temple(scene, side, rim)
    x = np.array([-1, 0, 1]) * (head.eye_x - 0.131)
    bridge = scene.camera.flatten(_on_lens(head, x, head.eye_y + np.array([-0.005, -0.022, -0.005])))
    scene.canvas.drawPath(curve(bridge), rim)


def _lids(scene: Scene, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Upper lid from the inner to the outer corner, lower lid back again."""
    a, head = scene.attributes, scene.head
    size = 1 + 0.13 * a["eye_size"] + 0.24 * (0.5 - a["age"]) + 0.05 * a["gender"]
    half, open_ = 0.104 * size, 0.060 * size
    x = np.array([-1.0, -0.5, 0.12, 0.70, 1.02]) * half
    y = np.array([0.014, -open_ * 0.80, -open_ * 1.02, -open_ * 0.58, -0.004 + 0.012 * a["age"]])
    upper = scene.at(side * (head.eye_x + x), head.eye_y + y)
    rise = 1 - 0.30 * scene.cheer
    y_low = np.array([open_ * 0.52, open_ * 0.80, open_ * 0.55]) * rise
    lower = scene.at(side * (head.eye_x + np.array([0.60, 0.0, -0.62]) * half), head.eye_y + y_low)
    return upper, lower


def _draw_iris(scene: Scene, side: int) -> None:
    a, head, iris = scene.attributes, scene.head, scene.palette.iris
    size = 1 + 0.13 * a["eye_size"] + 0.24 * (0.5 - a["age"])
    centre = scene.at(side * head.eye_x, head.eye_y - 0.006) - [
        0.030 * np.sin(a["yaw"]),
        0.02 * np.sin(a["pitch"]),
    ]
    radius = 0.055 * size
    colours = [mix(iris, (255, 240, 200), 0.30), iris, iris * 0.40]
    shader = radial_gradient(shifted(centre, 0, 0.014), radius, colours, [0.0, 0.62, 1.0])
    draw_oval(scene.canvas, centre, (radius * 0.96, radius), brush(iris, shader=shader))
    draw_oval(scene.canvas, centre, (radius * 0.45, radius * 0.46), brush((14, 10, 12)))
    glint = shifted(centre, 0.020 * scene.light.side, -0.020)
    draw_oval(scene.canvas, glint, (0.0155, 0.0155), brush((255, 255, 255), alpha=0.95))


def _mouth(scene: Scene) -> dict[str, np.ndarray]:
    """Heights of the four lip lines (and the shade under them) at nine places from left to right."""
    a, head = scene.attributes, scene.head
    smile, cheer = 0.42 + 0.58 * a["smile"], scene.cheer
    s = np.linspace(-1, 1, 9)
    x = s * (0.135 + 0.075 * cheer) * (1 + 0.05 * a["lip_size"])
    full = (1 + 0.22 * a["lip_size"]) * (1.05 - 0.30 * a["age"]) * (1 + 0.22 * a["gender"])
    taper = np.sqrt(np.clip(1 - s * s, 0, 1))
    middle = head.mouth_y + 0.012 + 0.082 * smile * (0.45 - s * s)
    gap = 0.066 * cheer + 0.065 * a["mouth_open"]
    upper = middle - 0.35 * gap * taper
    lower = middle + 0.65 * gap * taper**1.2
    bow = 0.82 + 0.18 * np.cos(2 * np.pi * np.clip(np.abs(s) / 0.5, 0, 1) + np.pi)
    top = upper - 0.036 * full * (1 - 0.25 * cheer) * taper * bow
    bottom = lower + 0.050 * full * (1 - 0.15 * cheer) * taper
    return {"s": s, "x": x, "top": top, "upper": upper, "lower": lower, "bottom": bottom, "under": bottom}


def _draw_teeth(scene: Scene, shape: dict[str, np.ndarray], inside: skia.Path) -> None:
    edge = shape["upper"] + np.minimum(0.060, 0.85 * (shape["lower"] - shape["upper"]))
    band = np.concatenate([scene.at(shape["x"], shape["upper"] - 0.01), scene.at(shape["x"], edge)[::-1]])
    scene.canvas.save()
    scene.canvas.clipPath(inside, True)
    scene.canvas.drawPath(curve(band, closed=True), brush((250, 246, 240)))
    scene.canvas.restore()


def _draw_cheek_folds(scene: Scene, side: int, *, aged: float, cheer: float) -> None:
    head, deep = scene.head, scene.palette.deep
    wing, mouth = 0.085 * head.nose_scale, 0.150 + 0.060 * cheer
    x = np.array([wing + 0.012, wing + 0.075 + 0.02 * cheer, mouth + 0.045])
    y = np.array([head.nose_y - 0.005, head.nose_y + 0.075, head.mouth_y - 0.02 - 0.03 * cheer])
    fold = scene.at(side * x, y)
    scene.line(fold, deep, alpha=0.62 * aged + 0.30 * cheer, width=0.015, blur=0.007)
    beside = shifted(fold, side * 0.024, -0.012)
    scene.line(beside, scene.palette.bright, alpha=0.22 * aged, width=0.022, blur=0.012)
    x = np.array([mouth + 0.035, mouth + 0.055, mouth + 0.035])
    jowl = scene.at(side * x, head.mouth_y + np.array([0.05, 0.10, 0.155]))
    scene.line(jowl, deep, alpha=0.50 * aged, width=0.016, blur=0.008)


def _on_lens(head: Head, x, y) -> np.ndarray:
    """Points (..., 3) of the slightly bent plane of the glasses."""
    z = head.on_face(0.0, head.eye_y)[2] + 0.060 - 1.1 * np.asarray(x) ** 2
    return np.stack(np.broadcast_arrays(x, y, z), axis=-1)


def _draw_temple(scene: Scene, side: int, rim: skia.Paint) -> None:
    """The arm from the frame to the ear, where it is in sight."""
    head = scene.head
    sight = 1 - float(smoothstep(0.02, 0.16, side * np.sin(scene.attributes["yaw"])))
    if sight <= 0:
        return
    hinge = _on_lens(head, side * (head.eye_x + 0.141), head.eye_y - 0.015)
    ear = np.array([side * head.half_width * 1.03, head.eye_y - 0.01, 0.02])
    arm = skia.Paint(rim)
    arm.setAlphaf(rim.getAlphaf() * sight)
    scene.canvas.drawPath(curve(scene.camera.flatten(np.stack([hinge, ear]))), arm)
