"""Drawing on a skia canvas: brushes, smooth curves, shaded meshes."""

import numpy as np
import skia


def mix(first, second, amount) -> np.ndarray:
    """From `first` (amount 0) to `second` (amount 1)."""
    return np.asarray(first, float) * (1 - amount) + np.asarray(second, float) * amount


def smoothstep(low: float, high: float, x) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((np.asarray(x, float) - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def ramp(stops, position) -> np.ndarray:
    """Colour at `position` (0 to 1) along evenly spaced stops; (..., 3) for a position of shape (...)."""
    stops = np.asarray(stops, float)
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(position, at, stops[:, channel]) for channel in range(3)], axis=-1)


def shifted(points, x: float, y: float) -> np.ndarray:
    """Picture positions (..., 2) moved by x and y."""
    return np.asarray(points, float) + np.array([x, y])


def brush(
    colour, *, alpha: float = 1.0, blur: float = 0.0, width: float | None = None, shader=None
) -> skia.Paint:
    """A paint that fills, or strokes with round ends where `width` is given; lengths in canvas units."""
    paint = skia.Paint(AntiAlias=True)
    red, green, blue = (float(c) for c in np.clip(colour, 0, 255) / 255)
    paint.setColor4f(skia.Color4f(red, green, blue, float(np.clip(alpha, 0, 1))))
    if shader is not None:
        paint.setShader(shader)
    if blur > 0:
        paint.setMaskFilter(skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, float(blur)))
    if width is not None:
        paint.setStyle(skia.Paint.kStroke_Style)
        paint.setStrokeWidth(float(width))
        paint.setStrokeCap(skia.Paint.kRound_Cap)
        paint.setStrokeJoin(skia.Paint.kRound_Join)
    return paint


def linear_gradient(start, end, colours):
    """Shader that goes through the colours from one point to the other."""
    points = [tuple(map(float, start)), tuple(map(float, end))]
    return skia.GradientShader.MakeLinear(points=points, colors=[_packed_one(c) for c in colours])


def radial_gradient(centre, radius: float, colours, positions):
    """Shader that goes through the colours from the centre outwards."""
    return skia.GradientShader.MakeRadial(
        center=tuple(map(float, centre)),
        radius=float(radius),
        colors=[_packed_one(c) for c in colours],
        positions=list(positions),
    )


def curve(points, *, closed: bool = False) -> skia.Path:
    """Smooth path through the points (Catmull-Rom as Bezier pieces)."""
    points = np.asarray(points, float)
    if closed:
        before, here, after = np.roll(points, 1, 0), points, np.roll(points, -1, 0)
        later = np.roll(points, -2, 0)
    else:
        padded = np.concatenate([points[:1], points, points[-1:]])
        before, here, after, later = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    pieces = np.concatenate([here + (after - before) / 6, after - (later - here) / 6, after], axis=1)
    path = skia.Path()
    path.moveTo(*points[0].tolist())
    for piece in pieces.tolist():
        path.cubicTo(*piece)
    if closed:
        path.close()
    return path


def draw_oval(canvas: skia.Canvas, centre, radii, paint: skia.Paint) -> None:
    """Upright ellipse."""
    (x, y), (rx, ry) = centre, radii
    canvas.drawOval(skia.Rect(float(x - rx), float(y - ry), float(x + rx), float(y + ry)), paint)


def draw_mesh(canvas: skia.Canvas, flat, depth, colours, *, front: bool) -> None:
    """Gouraud-shaded grid, far triangles first.

    flat, depth, colours : (rows, columns, 2), (rows, columns), (rows, columns, 3)
    front : draw the triangles that face the viewer, else those that show their back
    """
    triangles = _triangles(*depth.shape)
    xy, z = flat.reshape(-1, 2), depth.reshape(-1)
    a, b, c = (xy[triangles[:, k]] for k in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    triangles = triangles[area > 0] if front else triangles[area < 0]
    triangles = triangles[np.argsort(z[triangles].sum(axis=1), kind="stable")]
    points = list(map(skia.Point, *xy.T.tolist()))
    vertices = skia.Vertices(
        skia.Vertices.kTriangles_VertexMode,
        points,
        None,
        _packed(colours.reshape(-1, 3)).tolist(),
        triangles.reshape(-1).tolist(),
    )
    canvas.drawVertices(vertices, skia.Paint(), skia.BlendMode.kDst)


def _triangles(rows: int, columns: int) -> np.ndarray:
    cell = np.arange((rows - 1) * (columns - 1))
    corner = cell // (columns - 1) * columns + cell % (columns - 1)
    first = np.stack([corner, corner + 1, corner + columns], axis=1)
    second = np.stack([corner + 1, corner + columns + 1, corner + columns], axis=1)
    return np.stack([first, second], axis=1).reshape(-1, 3)


def _packed(colours: np.ndarray) -> np.ndarray:
    red, green, blue = np.clip(colours, 0, 255).round().astype(np.int64).T
    return (255 << 24) | (red << 16) | (green << 8) | blue


def _packed_one(colour) -> int:
    return int(_packed(np.asarray(colour, float)[None])[0])
