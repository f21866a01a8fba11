"""The Edit tab: a new picture, moved along a direction, before and after."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from webui import guards
from webui.tabs import PRIVATE, Demo, panels, paragraph, result_html
from webui.tabs.directions import reliability_sentence

if TYPE_CHECKING:
    import gradio as gr

    from brainedit.directions import Direction
    from brainedit.generators.base import Generator

LIMIT = 4.0  # standard deviations of the latents along the direction
STRIP = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
LIVE_SECONDS = 0.15  # an edit that is faster than this follows the slider as it moves
MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class Edited:
    """One picture before and after, and at the strengths of STRIP; (h, w, 3) and (7, h, w, 3), 0 to 1."""

    before: np.ndarray
    after: np.ndarray
    strip: np.ndarray
    mahalanobis: float
    degrees: float


def edited(generator: "Generator", direction: "Direction", *, seed: int, strength: float) -> Edited:
    """The generator's picture of a seed, moved along the direction.

    strength : standard deviations of the latents along the direction, -4 to 4

    Raises ValueError for a seed or strength out of range, or a direction of another generator.
    """
    from brainedit.editing import dose, edit

    if seed is None or not (float(seed).is_integer() and 0 <= seed <= MAX_SEED):
        raise ValueError(f"A seed is a whole number from 0 to {MAX_SEED}; got {seed}.")
    if strength is None or not abs(strength) <= LIMIT:
        raise ValueError(f"The strength goes from {-LIMIT:g} to {LIMIT:g}; got {strength}.")
    latent = generator.sample(1, space=direction.space, seed=int(seed))
    strengths = [*STRIP, float(strength)]
    images = edit(generator, latent, [(direction, strengths)], space=direction.space)[0]
    images = images.detach().cpu().permute(0, 2, 3, 1).numpy()  # (8, h, w, 3)
    moved = dose(generator, direction, float(strength), latent)
    return Edited(
        before=images[STRIP.index(0.0)],
        after=images[-1],
        strip=images[:-1],
        mahalanobis=moved.mahalanobis,
        degrees=float(moved.degrees[0]),
    )


def edited_html(
    generator: "Generator", direction: "Direction", *, seed: int, strength: float
) -> tuple[str, str]:
    """Before and after, and the words and the strip below them, as HTML."""
    shown = edited(generator, direction, seed=seed, strength=strength)
    pair = panels([(shown.before, "Before"), (shown.after, f"After, {strength:+g} SD")], kind="pair")
    where = (
        f"Moved {shown.mahalanobis:.1f} standard deviations of the generator's latents (Mahalanobis), "
        f"{shown.degrees:.0f}° around their mean."
    )
    titles = [f"{s:+g} SD" if s else "as it was" for s in STRIP]
    strip = panels(list(zip(shown.strip, titles, strict=True)), kind="strip")
    found_in = "" if not direction.provenance.get("simulated") else "Found in simulated EEG."
    words = paragraph(where) + paragraph(reliability_sentence(direction)) + paragraph(found_in, "soft")
    return result_html(pair), result_html(words, strip, paragraph(generator.licence, "soft"))


def is_fast(generator: "Generator", direction: "Direction") -> bool:
    """Whether an edit follows the slider without lagging; the second of two edits is timed."""
    for _ in range(2):
        start = time.perf_counter()
        edited(generator, direction, seed=0, strength=1.0)
        seconds = time.perf_counter() - start
    return seconds < LIVE_SECONDS


# the tab


def edit_tab(demo: Demo, made: "gr.State", *, found: "gr.events.Dependency") -> tuple[Callable, list, list]:
    """Draw the tab inside the current Blocks.

    made : the visitor's own directions, name -> (direction, generator's name); found : the event that adds one

    Returns what fills the tab when the page opens, its inputs and its outputs.
    """
    ui = _drawn(demo)

    def chosen(name: str | None, made: dict) -> tuple["Direction", "Generator"]:
        known = {name: (d, demo.default_maker) for name, d in demo.directions.items()} | made
        if name not in known:
            raise ValueError("There is no direction yet; find one in the Directions tab.")
        return known[name][0], demo.maker(known[name][1])

    def moved(name: str | None, seed: float, strength: float, made: dict) -> tuple[str, str]:
        direction, generator = chosen(name, made)
        return edited_html(generator, direction, seed=seed, strength=strength)

    def another() -> int:
        return random.randrange(10_000)

    def listed(made: dict):
        import gradio as gr

        names = [*demo.directions, *made]
        return gr.update(choices=names, value=names[-1] if made else gr.skip())

    given, shown = [ui.direction, ui.seed, ui.strength, made], [ui.faces, ui.words]
    follow = {"show_progress": "hidden", "trigger_mode": "always_last", **PRIVATE}
    move = guards.told(moved)
    fast = demo.directions and is_fast(demo.maker(demo.default_maker), next(iter(demo.directions.values())))
    (ui.strength.change if fast else ui.strength.release)(move, given, shown, **follow)
    ui.direction.change(move, given, shown, **follow)
    ui.seed.change(move, given, shown, **follow)
    ui.new.click(another, None, [ui.seed], **PRIVATE)
    found.success(listed, [made], [ui.direction], **PRIVATE)
    return move, given, shown


def _drawn(demo: Demo) -> SimpleNamespace:
    import gradio as gr

    names = list(demo.directions)
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=280):
            direction = gr.Dropdown(names, value=names[0] if names else None, label="Direction")
            strength = gr.Slider(-LIMIT, LIMIT, value=2.0, step=0.25, label="Strength (SD)", buttons=[])
            seed = gr.Number(1, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
            new = gr.Button("New face", variant="primary")
        with gr.Column(scale=3, min_width=300):
            faces, words = gr.HTML(), gr.HTML()
    return SimpleNamespace(
        direction=direction, strength=strength, seed=seed, new=new, faces=faces, words=words
    )
