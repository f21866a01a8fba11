"""The Directions tab: the EEG of an oddball gives a direction in latent space, and how far to trust it."""

import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING

from brainedit.datasets.latents import read_latents
from brainedit.report import is_simulated, section_html
from webui import guards
from webui.tabs import (
    EXAMPLE,
    HEAVY,
    OWN,
    PRIVATE,
    SIMULATED,
    Demo,
    paragraph,
    result_html,
    unused,
    with_progress,
)

if TYPE_CHECKING:
    import gradio as gr
    import mne
    import pandas as pd

    from brainedit.directions import Direction
    from brainedit.generators.base import Generator
    from brainedit.jobs.directions import FoundDirection

METHODS = ["ridge", "svr", "mean_difference", "logistic"]
N_PERMUTATIONS = {"ridge": 1000, "mean_difference": 1000}  # the others refit each time
SCHEMES = ["run", "stimulus", "block", "subject", "task_pair"]

HINT = result_html(
    paragraph(
        "Upload epochs of an oddball whose metadata name the picture of each trial, and the latents that the "
        "generator made those pictures from.",
        "soft",
    )
)


def find(
    epochs: "mne.BaseEpochs",
    latents: "pd.DataFrame",
    generator: "Generator",
    *,
    target: str,
    space: str,
    method: str = "ridge",
    scheme: str = "run",
    name: str = "",
) -> "FoundDirection":
    """The direction of relevance in these trials, with reliability and the shuffled control.

    target : query on the metadata that is true for target trials
    scheme : what a fold of the classifier leaves out

    Raises ValueError when trials, latents and generator do not fit, or the query does not split the trials.
    """
    from brainedit.jobs.directions import find_direction

    if not target.strip():
        raise ValueError("Say which trials are targets, for example label == 'smile'.")
    n_permutations = N_PERMUTATIONS.get(method, 99)
    settings = {"target": target, "space": space, "method": method, "scheme": scheme, "name": name}
    return find_direction(epochs, latents, generator, n_permutations=n_permutations, **settings)


def found_html(
    found: "FoundDirection", epochs: "mne.BaseEpochs", generator: "Generator", *, target: str
) -> str:
    """Verdict, relevance, reliability, and new pictures edited beside the shuffled control, as HTML."""
    from brainedit.jobs.directions import direction_sections

    sections = direction_sections(found, epochs, generator, target=target)
    return result_html(
        paragraph(SIMULATED, "notice") if is_simulated(epochs.metadata) else "",
        paragraph(reliability_sentence(found.direction), "verdict"),
        *(section_html(section) for section in sections),
    )


def reliability_sentence(direction: "Direction") -> str:
    """How far to trust a direction, in one sentence."""
    r = direction.reliability
    if not r:
        return f"How reliable {direction.name!r} is was not measured."
    if r["p"] >= 0.05:
        return (
            f"Do not trust {direction.name!r}: it predicts no better than permuted relevance "
            f"(p = {r['p']:.3f}, split-half cosine {r['split_half']:.2f})."
        )
    return (
        f"{direction.name!r} predicts better than permuted relevance (p = {r['p']:.3f}); directions from two "
        f"halves of the data agree with cosine {r['split_half']:.2f}."
    )


def save_direction(direction: "Direction") -> str:
    """Write the direction where the page may hand it out; returns the path."""
    folder = guards.cache_folder() / "made" / uuid.uuid4().hex
    folder.mkdir(parents=True)
    return str(direction.save(folder / "direction.safetensors"))


# the tab


class DirectionsHandlers:
    """What the tab's controls do; uploads are checked here, whoever sent the request."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self.page = ""

    def recording(self, source: str) -> tuple[dict, str]:
        """Another recording was chosen; what was found in the old one goes."""
        import gradio as gr

        return gr.update(visible=source == OWN), self.page if source == EXAMPLE else HINT

    def find(
        self,
        source: str,
        eeg: str | None,
        latents: str | None,
        maker: str,
        target: str,
        name: str,
        space: str,
        method: str,
        scheme: str,
        made: dict,
    ) -> tuple[str, dict, dict]:
        """The direction of the example or the upload: the page, the file, the visitor's directions."""
        import gradio as gr

        epochs, table = self.demo.faces, self.demo.latents
        if source == OWN:
            epochs = guards.checked_epochs(eeg)
            table = read_latents(guards.uploaded(latents, what="a file of latents"))
        generator = self.demo.maker(maker)
        settings = {"target": target, "space": space, "method": method, "scheme": scheme}
        found = find(epochs, table, generator, name=name.strip()[:60] or target, **settings)
        page = found_html(found, epochs, generator, target=target)
        listed = unused(found.direction.name, [*self.demo.directions, *made])
        file = gr.update(value=save_direction(found.direction), visible=True)
        return page, file, made | {listed: (found.direction, maker)}

    def example(self) -> str:
        """The direction of the example, found once."""
        if not self.page:
            demo, maker = self.demo, self.demo.maker(self.demo.default_maker)
            settings = {"target": demo.target, "space": demo.space, "name": demo.attribute}
            found = find(demo.faces, demo.latents, maker, **settings)
            self.page = found_html(found, demo.faces, maker, target=demo.target)
        return self.page


def directions_tab(
    demo: Demo, made: "gr.State"
) -> tuple[Callable[[], str], "gr.HTML", "gr.events.Dependency"]:
    """Draw the tab inside the current Blocks.

    made : the visitor's own directions, name -> (direction, generator's name)

    Returns what fills the tab when the page opens, where that goes, and the event that adds to `made`.
    """

    do, ui, told = DirectionsHandlers(demo), _drawn(demo), guards.told
    ui.source.change(told(do.recording), [ui.source], [ui.own_files, ui.result], **PRIVATE)
    given = [
        *(ui.source, ui.eeg, ui.latents, ui.generator, ui.target),
        *(ui.name, ui.space, ui.method, ui.scheme, made),
    ]
    shown = [ui.result, ui.download, made]
    event = ui.find.click(with_progress(told(do.find)), given, shown, **HEAVY, **PRIVATE)
    return told(do.example), ui.result, event


def _drawn(demo: Demo) -> SimpleNamespace:
    import gradio as gr

    ui = SimpleNamespace()
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=280):
            ui.source = gr.Radio([EXAMPLE, OWN], value=EXAMPLE, label="Recording")
            with gr.Column(visible=False) as ui.own_files:
                ui.eeg = gr.File(label="Epochs (-epo.fif)", file_types=[".fif", ".gz"], height=120)
                ui.latents = gr.File(
                    label="Latents of the pictures", file_types=[".safetensors", ".csv"], height=120
                )
            ui.generator = gr.Dropdown(list(demo.generators), value=demo.default_maker, label="Generator")
            ui.target = gr.Textbox(demo.target, label="Which trials are targets", max_length=300)
            ui.find = gr.Button("Find the direction", variant="primary")
            ui.download = gr.DownloadButton("Download direction.safetensors", visible=False, size="sm")
            with gr.Accordion("Settings", open=False):
                ui.name = gr.Textbox(demo.attribute, label="Name of the direction", max_length=60)
                ui.space = gr.Dropdown(["z", "w", "w+"], value=demo.space, label="Latent space")
                ui.method = gr.Dropdown(METHODS, value="ridge", label="Method")
                ui.scheme = gr.Dropdown(SCHEMES, value="run", label="Scored on a left-out")
        with gr.Column(scale=3, min_width=300):
            ui.result = gr.HTML()
    return ui
