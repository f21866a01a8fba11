"""The Edit tab: a face, new or on a photograph, moved along a direction; and how far it stays itself."""

import functools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from webui import guards
from webui.tabs import HEAVY, PRIVATE, Demo, panels, paragraph, result_html, with_progress
from webui.tabs.directions import reliability_sentence
from webui.tabs.photo import PASTES, connect_photo, photo_area, photo_upload

if TYPE_CHECKING:
    import gradio as gr

    from brainedit.directions import Direction
    from brainedit.editing import Ruler
    from brainedit.generators.base import Generator

LIMIT = 4.0  # standard deviations of the latents along the direction
STRIP = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
SCANNED = tuple(np.linspace(-6, 6, 13))
N_SCANNED = 8  # new faces
LIVE_SECONDS = 0.15  # an edit that is faster than this follows the slider as it moves
MAX_SEED = 2**31 - 1
NEW, PHOTO = "New face", "Your photo"


@dataclass(frozen=True)
class Edited:
    """One picture before and after, and at the strengths of STRIP; (h, w, 3) and (7, h, w, 3), 0 to 1.

    kept : cosine between the step and the direction, less than 1 where locks took something away
    """

    before: np.ndarray
    after: np.ndarray
    strip: np.ndarray
    mahalanobis: float
    degrees: float
    kept: float = 1.0


def edited(
    generator: "Generator",
    direction: "Direction",
    *,
    seed: int,
    strength: float,
    locks: "Sequence[Direction]" = (),
) -> Edited:
    """The generator's picture of a seed, moved along the direction: on the sphere where z lies on one.

    strength : standard deviations of the latents along the direction, -4 to 4
    locks : directions along which nothing moves

    Raises ValueError for a seed or strength out of range, a direction of another generator, or locks that leave
    nothing of the direction.
    """
    from brainedit.editing import edit, edit_latents, step_of

    if seed is None or not (float(seed).is_integer() and 0 <= seed <= MAX_SEED):
        raise ValueError(f"A seed is a whole number from 0 to {MAX_SEED}; got {seed}.")
    check_strength(strength)
    latent = generator.sample(1, space=direction.space, seed=int(seed))
    settings = {"space": direction.space, "locks": locks, "path": "auto"}
    images = edit(generator, latent, [(direction, [*STRIP, float(strength)])], **settings)[0]
    images = images.detach().cpu().permute(0, 2, 3, 1).numpy()  # (8, h, w, 3)
    moved = edit_latents(generator, latent, [(direction, float(strength))], **settings)
    step = step_of(generator, direction, space=direction.space, locks=locks)
    ruler = _ruler(generator, direction.space)
    return Edited(
        before=images[STRIP.index(0.0)],
        after=images[-1],
        strip=images[:-1],
        mahalanobis=float(ruler.length(strength * step[None])[0]),
        degrees=float(ruler.degrees(latent, moved)[0]),
        kept=float((step * direction.vector).sum() / np.linalg.norm(step)),
    )


def check_strength(strength: float | None) -> None:
    """Raises ValueError for a strength that is none, or beyond the slider."""
    if strength is None or not abs(strength) <= LIMIT:
        raise ValueError(f"The strength goes from {-LIMIT:g} to {LIMIT:g}; got {strength}.")


@functools.lru_cache(maxsize=4)
def _ruler(generator: "Generator", space: str) -> "Ruler":
    from brainedit.editing import Ruler

    return Ruler(generator, space)


def edited_html(
    generator: "Generator",
    direction: "Direction",
    *,
    seed: int,
    strength: float,
    locks: "Sequence[Direction]" = (),
) -> tuple[str, str]:
    """Before and after, and the words and the strip below them, as HTML."""
    shown = edited(generator, direction, seed=seed, strength=strength, locks=locks)
    pair = panels([(shown.before, "Before"), (shown.after, f"After, {strength:+g} SD")], kind="pair")
    where = (
        f"Moved {shown.mahalanobis:.1f} standard deviations of the generator's latents (Mahalanobis), "
        f"{shown.degrees:.0f}° around their mean."
    )
    held = ", ".join(repr(lock.name) for lock in locks)
    rest = (
        f"{held} stays as it was; the step has cosine {shown.kept:.2f} to {direction.name!r}."
        if locks
        else ""
    )
    titles = [f"{s:+g} SD" if s else "as it was" for s in STRIP]
    strip = panels(list(zip(shown.strip, titles, strict=True)), kind="strip")
    found_in = "" if not direction.provenance.get("simulated") else "Found in simulated EEG."
    words = "".join(paragraph(text) for text in (where, rest, reliability_sentence(direction)))
    words += paragraph(found_in, "soft")
    return result_html(pair), result_html(words, strip, paragraph(generator.licence, "soft"))


def scanned_html(generator: "Generator", direction: "Direction", *, locks: "Sequence[Direction]" = ()) -> str:
    """How far new faces may move along the direction before they are other faces, as HTML."""
    from brainedit.jobs.direction_sections import identity_section
    from brainedit.report import section_html
    from brainedit.strengths import scan

    latents = generator.sample(N_SCANNED, space=direction.space, seed=1000)
    settings = {"space": direction.space, "locks": locks, "path": "auto"}
    return result_html(
        section_html(identity_section(scan(generator, latents, direction, SCANNED, **settings)))
    )


def is_fast(generator: "Generator", direction: "Direction") -> bool:
    """Whether an edit follows the slider without lagging; the second of two edits is timed."""
    for _ in range(2):
        start = time.perf_counter()
        edited(generator, direction, seed=0, strength=1.0)
        seconds = time.perf_counter() - start
    return seconds < LIVE_SECONDS


# the tab


class EditHandlers:
    """What the tab's controls do."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo

    def known(self, made: dict | None) -> "dict[str, tuple[Direction, str]]":
        """The demo's directions and the visitor's: name -> direction and generator's name."""
        mine = {name: (d, self.demo.default_maker) for name, d in self.demo.directions.items()}
        return mine | (made or {})

    def chosen(
        self, name: str | None, locks: Sequence[str] | None, made: dict | None, strength: float | None
    ) -> "tuple[Direction, list[Direction], Generator]":
        """A direction, those that are locked, and their generator.

        Raises ValueError for a name that is not known, or a strength beyond the slider.
        """
        check_strength(strength)
        known = self.known(made)
        for wanted in (name, *(locks or ())):
            if wanted not in known:
                raise ValueError("There is no such direction yet; find one in the Directions tab.")
        direction, maker = known[name]
        return direction, [known[lock][0] for lock in locks or ()], self.demo.maker(maker)

    def moved(
        self, name: str | None, seed: float, strength: float, locks: Sequence[str] | None, made: dict
    ) -> tuple[str, str]:
        """A new face, before and after, and what is said of it."""
        direction, held, generator = self.chosen(name, locks, made, strength)
        return edited_html(generator, direction, seed=seed, strength=strength, locks=held)

    def scanned(self, name: str | None, locks: Sequence[str] | None, made: dict) -> str:
        """How far faces may move."""
        direction, held, generator = self.chosen(name, locks, made, 0.0)
        return scanned_html(generator, direction, locks=held)

    def lockable(self, name: str | None, locks: Sequence[str] | None, made: dict) -> dict:
        """The directions that can be locked beside this one: others of its generator and space."""
        import gradio as gr

        known = self.known(made)
        if name not in known:
            return gr.update(choices=[], value=[])
        own, maker = known[name]
        fits = [
            other
            for other, (direction, its) in known.items()
            if other != name and (its, direction.space) == (maker, own.space)
        ]
        return gr.update(choices=fits, value=[lock for lock in locks or () if lock in fits])

    def listed(self, made: dict) -> dict:
        """The directions that can be chosen, the visitor's latest first to be shown."""
        import gradio as gr

        names = list(self.known(made))
        return gr.update(choices=names, value=names[-1] if made else gr.skip())

    def picture(self, source: str) -> tuple:
        """A new face or a photograph: which controls and results are seen."""
        import gradio as gr

        return tuple(
            gr.update(visible=(source == PHOTO) == photo) for photo in (False, False, True, True, True)
        )


def edit_tab(demo: Demo, made: "gr.State", *, found: "gr.events.Dependency") -> tuple[Callable, list, list]:
    """Draw the tab inside the current Blocks.

    made : the visitor's own directions, name -> (direction, generator's name); found : the event that adds one

    Returns what fills the tab when the page opens, its inputs and its outputs.
    """
    do, told = EditHandlers(demo), guards.told
    ui = _drawn(do)
    given = [ui.direction, ui.seed, ui.strength, ui.locks, made]
    shown = [ui.faces, ui.words]
    follow = {"show_progress": "hidden", "trigger_mode": "always_last", **PRIVATE}
    move = told(do.moved)
    fast = demo.directions and is_fast(demo.maker(demo.default_maker), next(iter(demo.directions.values())))
    (ui.strength.change if fast else ui.strength.release)(move, given, shown, **follow)
    ui.direction.change(
        told(do.lockable), [ui.direction, ui.locks, made], [ui.locks], show_progress="hidden", **PRIVATE
    ).then(move, given, shown, **follow)
    ui.locks.input(move, given, shown, **follow)
    ui.seed.change(move, given, shown, **follow)
    ui.new.click(lambda: random.randrange(10_000), None, [ui.seed], **PRIVATE)
    ui.scan.click(
        with_progress(told(do.scanned)), [ui.direction, ui.locks, made], [ui.scanned], **HEAVY, **PRIVATE
    )
    seen = [ui.new_given, ui.new_shown, ui.photo_given, ui.photo_shown, ui.paste]
    ui.source.change(told(do.picture), [ui.source], seen, show_progress="hidden", **PRIVATE)
    connect_photo(ui, do.chosen, made)
    found.success(do.listed, [made], [ui.direction], **PRIVATE)
    return move, given, shown


def _drawn(do: EditHandlers) -> SimpleNamespace:
    import gradio as gr

    ui, names = SimpleNamespace(), list(do.known({}))
    first = names[0] if names else None
    others = do.lockable(first, [], {})["choices"]
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=280):
            ui.source = gr.Radio([NEW, PHOTO], value=NEW, label="Picture")
            photo_upload(ui)
            ui.direction = gr.Dropdown(names, value=first, label="Direction")
            ui.strength = gr.Slider(-LIMIT, LIMIT, value=2.0, step=0.25, label="Strength (SD)", buttons=[])
            ui.locks = gr.Dropdown(others, value=[], multiselect=True, label="Keep as it is")
            ui.paste = gr.Radio(PASTES, value=PASTES[0][1], label="Paste", visible=False)
            with gr.Column(visible=True) as ui.new_given:
                ui.seed = gr.Number(1, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
                ui.new = gr.Button("New face", variant="primary")
            ui.scan = gr.Button("How far can a face go?", size="sm")
        with gr.Column(scale=3, min_width=300):
            with gr.Column(visible=True) as ui.new_shown:
                ui.faces, ui.words = gr.HTML(), gr.HTML()
            photo_area(ui)
            ui.scanned = gr.HTML()
    return ui
