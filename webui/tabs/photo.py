"""A photograph on the Edit tab: its eyes are marked, the face is found in the generator, moved, and pasted back."""

import functools
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from brainedit.crops import Crop, eyes_crop
from webui import guards
from webui.tabs import HEAVY, PRIVATE, panels, paragraph, result_html, with_progress
from webui.tabs.directions import reliability_sentence

if TYPE_CHECKING:
    import gradio as gr

    from brainedit.directions import Direction
    from brainedit.generators.base import Generator
    from brainedit.inversion import Inversion
    from brainedit.inversion_encoder import InversionEncoder
    from brainedit.photo import PhotoEdit

    Place = tuple[float, float]

FORMATS = ("JPEG", "PNG", "WEBP")
MOST_PIXELS = 24_000_000
SHOWN = 800  # pixels, the longer side of a photograph on the page
STEPS = 200  # of the inversion
N_RESTARTS = 3  # where no encoder gives the start
PASTES = [("the change alone", "change"), ("the generator's face", "picture")]
HINT = (
    f"Upload a photograph of a face (JPEG, PNG or WebP, at most {MOST_PIXELS // 10**6} million pixels), then click "
    "both eyes. It is kept on the machine that runs this page, and for some hours only."
)
CLICK = "Click the centre of both eyes; a third click moves the nearer one."


@dataclass(frozen=True)
class FoundFace:
    """A face that was found in the generator, without the photograph's pixels.

    key : the photograph, eyes, generator and space that it was found with
    """

    key: tuple
    inversion: "Inversion"


# the photograph and its eyes


def checked_photo(path: str | Path | None) -> Path:
    """The path of an uploaded photograph of a kind and size that the page edits.

    Raises RefusedUpload when nothing came, for another kind of file, or for too many pixels; none are decoded.
    """
    from PIL import Image, UnidentifiedImageError

    real = guards.uploaded(path, what="a photograph")
    try:
        with Image.open(real, formats=FORMATS) as opened:
            width, height = opened.size
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError):
        raise guards.RefusedUpload(f"{real.name} is no photograph in JPEG, PNG or WebP.") from None
    if width * height > MOST_PIXELS:
        raise guards.RefusedUpload(
            f"{real.name} has {width} x {height} pixels; at most {MOST_PIXELS:,} are edited here; make it smaller."
        )
    return real


def read_eyes(text: str | None) -> "list[Place]":
    """None, one or two places (x, y) in pixels, from "x, y, x, y".

    Raises ValueError for anything else.
    """
    parts = re.split(r"[\s,;]+", (text or "").strip(" \t\n,;"))
    try:
        values = [float(part) for part in parts if part]
    except ValueError:
        values = [np.nan]
    if len(values) not in (0, 2, 4) or not np.isfinite(values).all():
        raise ValueError(f"The eyes are four numbers, x, y, x, y in pixels; got {(text or '')[:60]!r}.")
    return list(zip(values[::2], values[1::2], strict=True))


def eyes_text(eyes: "Sequence[Place]") -> str:
    """Places as `read_eyes` takes them, to whole pixels."""
    return ", ".join(f"{x:.0f}, {y:.0f}" for x, y in eyes)


def with_click(eyes: "Sequence[Place]", place: "Place") -> "list[Place]":
    """The eyes after a click: one more, or, where both are set, the nearer one moved."""
    if len(eyes) < 2:
        return [*eyes, place]
    far = max(eyes, key=lambda eye: np.hypot(eye[0] - place[0], eye[1] - place[1]))
    return [far, place]


def shown_photo(path: Path, eyes: "Sequence[Place]", template: str) -> tuple[np.ndarray, float]:
    """The photograph made small, its eyes and crop drawn in, uint8 (h, w, 3), and how many of its pixels one is.

    Raises ValueError as `eyes_crop` does for two eyes that cannot be.
    """
    from PIL import Image, ImageDraw

    small, size = _small(path, path.stat().st_mtime_ns)
    step = size[1] / small.shape[1]
    picture = Image.fromarray(small)
    draw = ImageDraw.Draw(picture)
    if len(eyes) == 2:
        bounds = np.broadcast_to(np.uint8(0), (*size, 3))  # its size is all that counts
        crop = eyes_crop(bounds, eyes, template=template)
        _draw_crop(draw, crop, step)
    for x, y in eyes:
        x, y = x / step, y / step
        for radius, colour in ((8, "black"), (7, "white"), (6, "black")):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour)
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill="white", outline="black")
    return np.asarray(picture), step


def _draw_crop(draw: Any, crop: Crop, step: float) -> None:
    """The square that will be edited, thinly."""
    x, y = crop.outside(np.array([0, 1, 1, 0, 0]), np.array([0, 0, 1, 1, 0]))
    corners = [(float(a) / step, float(b) / step) for a, b in zip(x, y, strict=True)]
    draw.line(corners, fill="black", width=3)
    draw.line(corners, fill="white", width=1)


@functools.lru_cache(maxsize=4)
def _small(path: Path, version: int) -> tuple[np.ndarray, tuple[int, int]]:
    """A photograph upright and at most SHOWN pixels long, and its own (height, width)."""
    from brainedit.encoders.image import read_picture

    pixels = read_picture(path)
    return shrunk(pixels), pixels.shape[:2]


def shrunk(pixels: np.ndarray) -> np.ndarray:
    """A picture, uint8 (height, width, 3), at most SHOWN pixels long."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((SHOWN, SHOWN), reducing_gap=2.0)
    return np.asarray(picture)


# the edit


def edited_photo(
    generator: "Generator",
    path: Path,
    direction: "Direction",
    *,
    eyes: "Sequence[Place]",
    strength: float,
    locks: "Sequence[Direction]" = (),
    paste: str = "change",
    known: FoundFace | None = None,
    steps: int = STEPS,
) -> "tuple[PhotoEdit, FoundFace]":
    """The photograph with its face moved, and the face as it was found, which serves further edits.

    eyes : both; none for a square photograph, all of which is taken
    known : found before; used where photograph, eyes, generator and space are the same

    Raises ValueError as `brainedit.photo.edit_photo` does.
    """
    from brainedit.editing import path_in
    from brainedit.photo import edit_photo

    _, (height, width) = _small(path, path.stat().st_mtime_ns)
    if len(eyes) == 1 or (not eyes and height != width):
        raise ValueError(
            f"Click both eyes first: {len(eyes)} of 2 are marked. Only a square picture needs none."
        )
    space = "z" if direction.space == "z" else "w+"
    key = (str(path), path.stat().st_mtime_ns, tuple(sorted(eyes)), generator.sha256, space, steps)
    found = known.inversion if known is not None and known.key == key else None
    encoder = None if space == "z" or found is not None else encoder_of(generator)
    edit = edit_photo(
        generator,
        path,
        [(direction, [strength])],
        eyes=eyes or None,
        template=template_of(generator),
        space=space,
        encoder=encoder,
        n_restarts=N_RESTARTS if encoder is None else 1,
        steps=steps,
        found=found,
        locks=locks,
        path=path_in(generator, space, "auto"),
        paste=paste,
    )
    return edit, FoundFace(key, edit.inversion) if found is None else known


@functools.lru_cache(maxsize=1)
def _bundled_encoder() -> "InversionEncoder":
    from brainedit.inversion_encoder import face_encoder

    return face_encoder()


def encoder_of(generator: "Generator") -> "InversionEncoder | None":
    """The encoder that gives an inversion its start; only the bundled generator has one."""
    encoder = _bundled_encoder()
    return encoder if encoder.generator_sha256 == generator.sha256 else None


def template_of(generator: "Generator") -> str:
    """Where this generator's faces have their eyes."""
    return "celebahq" if encoder_of(generator) is None else "faces"


def photo_html(edit: "PhotoEdit", direction: "Direction", *, strength: float) -> str:
    """The photograph before and after, the face at each step, the inversion's error and the warnings, as HTML."""
    found, title = edit.inversion, f"Edited, {strength:+g} SD"
    error = f"{found.psnr[0]:.1f} dB"
    pair = panels([(shrunk(edit.photo), "Photograph"), (shrunk(edit.images[-1]), title)], kind="pair")
    faces = [(edit.before, "The face"), (found.images[0], f"Found, {error}"), (edit.edited[-1], title)]
    pictures = [(face.detach().cpu().permute(1, 2, 0).numpy(), name) for face, name in faces]
    words = f"The generator makes this face with an error of {error} (PSNR; SSIM {found.ssim[0]:.2f}). "
    if edit.marks[-1]["paste"] == "change":
        words += "The photograph is given what changes between the face that was found and the edited one."
    else:
        words += "The edit begins at the face that was found, so the error is in the picture too."
    return result_html(
        *(paragraph(warning, "notice") for warning in edit.warnings),
        pair,
        panels(pictures),
        paragraph(words),
        paragraph(reliability_sentence(direction)),
        paragraph("Found in simulated EEG." * bool(direction.provenance.get("simulated")), "soft"),
        paragraph("The file says in its metadata that it was edited with a generative model.", "soft"),
    )


# the tab


class PhotoHandlers:
    """What the photograph's controls do; uploads are checked here, whoever sent the request.

    chosen : (direction, locks, visitor's directions, strength) -> direction, locked directions, generator
    """

    def __init__(self, chosen: Callable[..., tuple]) -> None:
        self.chosen = chosen

    def photo(self, file: str | None, name: str | None, made: dict) -> tuple:
        """Another photograph: the old one's eyes and result go."""
        import gradio as gr

        shown = self.marked(file, "", name, made) if file else None
        hidden = gr.update(visible=False)
        return shown, gr.update(visible=bool(file)), gr.update(visible=not file), "", "", hidden, None

    def marked(self, file: str | None, text: str | None, name: str | None, made: dict) -> "np.ndarray | dict":
        """The photograph with the eyes that the numbers say."""
        import gradio as gr

        if not file:
            return gr.skip()
        *_, generator = self.chosen(name, [], made, 0.0)
        shown, _ = shown_photo(checked_photo(file), read_eyes(text), template_of(generator))
        return shown

    def clicked(self, file: str | None, text: str | None, index: Any) -> str:
        """The eyes after a click at (x, y) of the photograph as it is shown."""
        try:
            x, y = (float(value) for value in index)
        except (TypeError, ValueError):
            raise ValueError("A click has two numbers, x and y.") from None
        _, step = shown_photo(checked_photo(file), [], "celebahq")
        return eyes_text(with_click(read_eyes(text), ((x + 0.5) * step, (y + 0.5) * step)))

    def edit(
        self,
        file: str | None,
        text: str | None,
        name: str | None,
        strength: float,
        locks: list[str] | None,
        paste: str,
        known: FoundFace | None,
        made: dict,
    ) -> tuple[str, dict, FoundFace]:
        """The photograph edited: the page, the marked file, the face for further edits."""
        import gradio as gr

        path = checked_photo(file)
        direction, held, generator = self.chosen(name, locks, made, strength)
        settings = {"eyes": read_eyes(text), "strength": strength, "locks": held, "paste": paste}
        edit, found = edited_photo(generator, path, direction, known=known, **settings)
        folder = guards.cache_folder() / "made" / uuid.uuid4().hex
        folder.mkdir(parents=True)
        saved = edit.save(folder / "edited.png")
        return (
            photo_html(edit, direction, strength=strength),
            gr.update(value=str(saved), visible=True),
            found,
        )


def photo_upload(ui: SimpleNamespace) -> None:
    """Draw the upload, for the column of controls."""
    import gradio as gr

    with gr.Column(visible=False) as ui.photo_given:
        ui.photo = gr.File(label="Photograph", file_types=[".jpg", ".jpeg", ".png", ".webp"], height=120)


def photo_area(ui: SimpleNamespace) -> None:
    """Draw the photograph to click, its button and its result, for the column of results."""
    import gradio as gr

    with gr.Column(visible=False) as ui.photo_shown:
        ui.photo_hint = gr.HTML(result_html(paragraph(HINT, "soft")))
        with gr.Column(visible=False) as ui.photo_work:
            ui.picture = gr.Image(interactive=False, show_label=False, buttons=[], height=420, alt_text=CLICK)
            ui.eyes = gr.Textbox("", label="Eyes: x, y, x, y in pixels", info=CLICK, max_length=60)
            ui.edit_photo = gr.Button("Edit the photo", variant="primary")
            ui.save_photo = gr.DownloadButton("Download the marked PNG", visible=False, size="sm")
            ui.photo_result = gr.HTML()
        ui.found_face = gr.State(None, time_to_live=3600)


def connect_photo(ui: SimpleNamespace, chosen: Callable[..., tuple], made: "gr.State") -> None:
    """Tie the controls of `photo_upload`, `photo_area` and of the Edit tab to what they do.

    chosen : as `PhotoHandlers` takes it
    """
    import gradio as gr

    do, told = PhotoHandlers(chosen), guards.told

    def clicked(file: str | None, text: str | None, event: gr.SelectData) -> str:
        return do.clicked(file, text, event.index)

    new = [ui.picture, ui.photo_work, ui.photo_hint]
    new += [ui.eyes, ui.photo_result, ui.save_photo, ui.found_face]
    marks = ([ui.photo, ui.eyes, ui.direction, made], [ui.picture])
    ui.photo.change(told(do.photo), [ui.photo, ui.direction, made], new, **PRIVATE)
    ui.picture.select(
        told(clicked), [ui.photo, ui.eyes], [ui.eyes], **PRIVATE, show_progress="hidden"
    ).success(told(do.marked), *marks, **PRIVATE, show_progress="hidden")
    ui.eyes.submit(told(do.marked), *marks, **PRIVATE)
    ui.eyes.blur(told(do.marked), *marks, **PRIVATE, show_progress="hidden")
    given = [ui.photo, ui.eyes, ui.direction, ui.strength, ui.locks, ui.paste, ui.found_face, made]
    shown = [ui.photo_result, ui.save_photo, ui.found_face]
    ui.edit_photo.click(with_progress(told(do.edit)), given, shown, **HEAVY, **PRIVATE)
