"""The Directions tab: the EEG of an oddball gives a direction in latent space, and how far to trust it."""

import uuid
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from brainedit.relevance import PRESETS
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

METHODS = ["ridge", "svr", "mean_difference", "logistic", "hierarchical"]
SCHEMES = ["auto", "run", "stimulus", "block", "subject", "task_pair"]
CLASSIFIERS = [
    ("LDA of window means", "lda"),
    ("xDAWN and tangent space", "xdawn"),
    ("the best of both, by inner folds (slow)", "auto"),
]
WINDOWS = [("16 in 0 to 0.75 s", "default")] + [
    (f"{w.n} in {w.tmin:g} to {w.tmax:g} s ({name})", name) for name, w in PRESETS.items()
]
PEOPLE = [("equally", "equal"), ("by how reliable each is", "reliability")]
MOST_FILES, MOST_BYTES = 12, 400 * 2**20  # of epochs, one file a person

HINT = result_html(
    paragraph(
        "Upload epochs of an oddball whose metadata name the picture of each trial, and the latents that the "
        "generator made those pictures from.",
        "soft",
    )
)


def find(
    epochs: "mne.BaseEpochs | Sequence[mne.BaseEpochs]",
    latents: "pd.DataFrame",
    generator: "Generator",
    *,
    target: str,
    **settings: str | None,
) -> "FoundDirection":
    """The direction of relevance in these trials, with reliability and the shuffled control.

    target : query on the metadata that is true for target trials
    settings : further ones of `brainedit.jobs.directions.find_direction`

    Raises ValueError when trials, latents and generator do not fit, or the query does not split the trials.
    """
    from brainedit.jobs.directions import find_direction

    if not target.strip():
        raise ValueError("Say which trials are targets, for example label == 'smile'.")
    return find_direction(epochs, latents, generator, target=target, **settings)


def found_html(
    found: "FoundDirection",
    epochs: "mne.BaseEpochs | Sequence[mne.BaseEpochs]",
    generator: "Generator",
    *,
    target: str,
) -> str:
    """Verdict, relevance, reliability, and new pictures edited beside the shuffled control, as HTML."""
    from brainedit.jobs.direction_inputs import recordings_of
    from brainedit.jobs.direction_sections import direction_sections

    sections = direction_sections(found, epochs, generator, target=target)
    simulated = any(is_simulated(recording.metadata) for recording in recordings_of(epochs))
    return result_html(
        paragraph(SIMULATED * simulated, "notice"),
        paragraph(reliability_sentence(found.direction), "verdict"),
        *(section_html(section) for section in sections),
    )


def reliability_sentence(direction: "Direction") -> str:
    """How far to trust a direction, and how many pictures a better one takes."""
    from brainedit.jobs.direction_sections import trust_sentence

    r = direction.reliability
    if not r or "p" not in r:
        return f"How reliable {direction.name!r} is was not measured."
    return f"{trust_sentence(direction)}{looks_sentence(r)}"


def looks_sentence(reliability: dict) -> str:
    """How many pictures the next better cosine takes; nothing where it was not measured, or no direction was shown."""
    from brainedit.direction_reliability import DirectionReliability
    from brainedit.jobs.direction_sections import LOOKS, SURE

    if "learning_curve" not in reliability or reliability["p"] >= SURE:
        return ""
    trust = DirectionReliability(**reliability)
    wanted = next((cosine for cosine in LOOKS if cosine > trust.predicted_cosine), None)
    if wanted is None:
        return ""
    needed = trust.looks_needed(wanted)
    if needed.n == float("inf"):
        return f" A cosine of {wanted:g} is out of reach of such pictures."
    low, middle, high = (f"{float(f'{n:.2g}'):,.0f}" for n in (needed.low, needed.n, needed.high))
    most = f"to {high}" if needed.high < float("inf") else "or more"
    return f" These are {trust.n} pictures; a cosine of {wanted:g} takes about {middle} ({low} {most})."


def save_direction(direction: "Direction") -> str:
    """Write the direction where the page may hand it out; returns the path."""
    folder = guards.cache_folder() / "made" / uuid.uuid4().hex
    folder.mkdir(parents=True)
    return str(direction.save(folder / "direction.safetensors"))


def uploaded_people(files: Sequence[str] | None) -> "list[mne.BaseEpochs]":
    """The recordings that were uploaded, one a person, each checked.

    Raises RefusedUpload for none, too many or too much, or as `guards.checked_epochs` does.
    """
    if not files:
        raise guards.RefusedUpload("Upload an epochs file first, or one a person.")
    if len(files) > MOST_FILES:
        raise guards.RefusedUpload(
            f"At most {MOST_FILES} files of epochs are read here; {len(files)} came. `brainedit directions` takes more."
        )
    paths = [guards.uploaded(path, what="an epochs file") for path in files]
    if sum(path.stat().st_size for path in paths) > MOST_BYTES:
        raise guards.RefusedUpload(
            f"The files are larger than {MOST_BYTES // 2**20} MB together; `brainedit directions` takes them."
        )
    return [guards.checked_epochs(path) for path in paths]


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

    def windows(self, classifier: str) -> dict:
        """Windows are asked for where they count."""
        import gradio as gr

        return gr.update(visible=classifier == "lda")

    def find(
        self,
        source: str,
        eeg: list[str] | None,
        latents: str | None,
        maker: str,
        target: str,
        task: str,
        name: str,
        space: str,
        method: str,
        scheme: str,
        classifier: str,
        windows: str,
        people: str,
        made: dict,
    ) -> tuple[str, dict, dict]:
        """The direction of the example or the upload: the page, the file, the visitor's directions."""
        import gradio as gr

        from brainedit.jobs.direction_inputs import read_latents_in

        generator = self.demo.maker(maker)
        epochs, table = self.demo.faces, self.demo.latents
        if source == OWN:
            epochs = uploaded_people(eeg)
            table = read_latents_in(guards.uploaded(latents, what="a file of latents"), space)
        settings = {"target": target, "space": space, "method": method, "scheme": scheme}
        settings |= {"task": task.strip() or None, "classifier": classifier}
        settings["preset"] = windows if classifier == "lda" and windows != "default" else None
        settings["weights"] = people if people != "equal" else None
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
    ui.classifier.change(told(do.windows), [ui.classifier], [ui.windows], **PRIVATE)
    given = [
        *(ui.source, ui.eeg, ui.latents, ui.generator, ui.target, ui.task),
        *(ui.name, ui.space, ui.method, ui.scheme),
        *(ui.classifier, ui.windows, ui.people, made),
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
                ui.eeg = gr.File(
                    label="Epochs (-epo.fif), one file a person",
                    file_types=[".fif", ".gz"],
                    file_count="multiple",
                    height=120,
                )
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
                ui.classifier = gr.Dropdown(CLASSIFIERS, value="lda", label="Classifier of trials")
                ui.windows = gr.Dropdown(WINDOWS, value="default", label="Windows")
                ui.scheme = gr.Dropdown(SCHEMES, value="auto", label="Scored on a left-out")
                ui.task = gr.Textbox("", label="Relevance in task", placeholder="all", max_length=60)
                ui.people = gr.Dropdown(PEOPLE, value="equal", label="People count")
        with gr.Column(scale=3, min_width=300):
            ui.result = gr.HTML()
    return ui
