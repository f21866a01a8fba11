"""The Saliency tab: which part of a picture, which electrode and when, beside the shuffled-EEG control."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from brainedit._check import pick
from brainedit.report import scores_html
from webui import guards
from webui.tabs import (
    EXAMPLE,
    HEAVY,
    OWN,
    PRIVATE,
    Demo,
    paragraph,
    result_html,
    unused,
    with_progress,
)
from webui.tabs.map_pages import map_steps

if TYPE_CHECKING:
    import gradio as gr
    import mne

    from brainedit.evaluation import Score
    from brainedit.joint import JointModel

WINDOWS = {"one window of 48 pixels": "occlusion", "three window sizes (slower)": "multiscale"}
DEMO_MODEL = "the demo's model"
HINT = (
    "Upload epochs whose metadata name the picture of each trial, and a picture. The demo's model fits simulated "
    "EEG only: for a recording of your own, upload all of its pictures and train."
)
MOST_UPLOADS = 64  # pictures that are read for D


def stimulus_choices(epochs: "mne.BaseEpochs") -> list[tuple[str, str]]:
    """(shown, stimulus) for each picture that was shown, with its number of trials; empty where unknown."""
    import pandas as pd

    from brainedit.jobs.map_trials import stimuli_of

    names = stimuli_of(epochs)
    if names is None:
        return []
    counts = pd.Series(names[names != ""]).value_counts(sort=False)
    short = [name.rsplit("/", 1)[-1] for name in counts.index]
    shown = short if len(set(short)) == len(short) else list(counts.index)
    return sorted(
        (f"{label} · {n} trial{'s' * (n != 1)}", name)
        for label, (name, n) in zip(shown, counts.items(), strict=True)
    )


def join_pictures(names: Sequence[str], files: Sequence[str | Path]) -> dict[str, Path]:
    """The uploaded file of each stimulus, joined by file name; stimuli without one are left out.

    A browser's upload drops folders and some characters from names, so those are not compared.

    Raises ValueError when a file fits two stimuli.
    """
    by_name: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        by_name.setdefault(_plain(name), []).append(name)
    joined = {}
    for file in files:
        fits = by_name.get(_plain(file), [])
        if len(fits) > 1:
            raise ValueError(f"{Path(file).name} fits the stimuli {fits[0]} and {fits[1]}; name files apart.")
        if fits:
            joined[fits[0]] = Path(file)
    return joined


def join_labels(labels: Sequence[str], files: Sequence[str | Path]) -> dict[str, list[Path]]:
    """The uploaded files of each label: their names begin with it, as in face_01.png."""
    found: dict[str, list[Path]] = {}
    for label in dict.fromkeys(labels):
        start = re.compile(rf"{re.escape(_plain(label, stem=False))}[^a-z]", re.IGNORECASE)
        found[label] = [Path(file) for file in files if start.match(_plain(file))]
    missing = [label for label, pictures in found.items() if not pictures]
    if missing:
        raise ValueError(
            f"No picture's name begins with the label {missing[0]!r}; name them like {missing[0]}_01.png."
        )
    return found


def train_upload(
    epochs: "mne.BaseEpochs",
    files: Sequence[str | Path],
    *,
    n_epochs: int = 40,
    seed: int = 0,
    **settings: Any,
) -> tuple["JointModel", list["Score"]]:
    """A joint model of these trials and pictures, and its scores on the fifth that was held out.

    Held out are pictures, or runs where trials are paired by label.
    settings : further ones of `brainedit.joint_training.train_joint`

    Raises ValueError when a stimulus has no picture, nothing can be held out, or the design is confounded.
    """
    from brainedit.audit.design import audit_design
    from brainedit.datasets.paired import PairedDataset
    from brainedit.jobs.audit import stamp_for
    from brainedit.jobs.joint import evaluation_sections
    from brainedit.joint_training import train_joint
    from brainedit.splits import split_trials

    if not files:
        raise ValueError("Upload the pictures of all stimuli to train on them.")
    pair_by, by = ("stimulus", "stimulus") if "stimulus" in epochs.metadata else ("label", "run")
    keys = epochs.metadata[pair_by].astype(str)
    join: Callable[[Sequence, Sequence], Mapping] = join_pictures if pair_by == "stimulus" else join_labels
    dataset = PairedDataset(epochs, join(list(keys), files), pair_by=pair_by)
    train, test = next(split_trials(dataset.metadata, by=by, seed=seed))
    claim = "picture" if pair_by == "stimulus" else "category"
    stamp_for(audit_design(dataset.metadata, claim=claim, split=[(train, test)]), allow_confounded=False)
    model = train_joint(dataset.subset(train), n_epochs=n_epochs, seed=seed, **settings)
    return model, list(evaluation_sections(model, dataset.subset(test), hold_out=by)[0].scores)


def example_html(demo: Demo, stimulus: str, **settings: Any) -> str:
    """The map of one picture of the viewing example by the demo's model."""
    *_, page = example_steps(demo, stimulus, **settings)
    return page


def example_steps(demo: Demo, stimulus: str, **settings: Any) -> Iterator[str]:
    """`map_steps` for one picture of the viewing example by the demo's model."""
    from brainedit.jobs.map_dependence import find_pictures
    from brainedit.jobs.picture_maps import find_twin

    if stimulus not in {name for _, name in stimulus_choices(demo.viewing)}:
        raise ValueError(f"The example has no stimulus {stimulus!r}; choose one from the list.")
    settings["pictures"] = find_pictures(demo.viewing, demo.picture(stimulus))
    settings["twin"] = find_twin(demo.root / "model", demo.model)
    yield from map_steps(demo.model, demo.viewing, demo.picture(stimulus), stimulus=stimulus, **settings)


def _plain(name: str | Path, *, stem: bool = True) -> str:
    """A file's name as it is after an upload: no folder, few kinds of characters."""
    last = str(name).replace("\\", "/").rsplit("/", 1)[-1] if stem else str(name)
    return "".join(c for c in last if c.isalnum() or c in "._-")


def _checked(files: Mapping[str, str | Path]) -> tuple[dict, list[str]]:
    """The pictures by stimulus, the first 64, and the names of files that are no pictures."""
    found, unread = {}, []
    for name, path in list(files.items())[:MOST_UPLOADS]:
        try:
            found[name] = guards.checked_picture(path)
        except guards.RefusedUpload:
            raise
        except ValueError:
            unread.append(Path(path).name)
    return found, unread


# the tab


class SaliencyHandlers:
    """What the tab's controls do; uploads are checked here, whoever sent the request."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self.examples: dict[tuple[str, str], str] = {}

    def recording(self, source: str, file: str | None) -> tuple:
        """Another recording was chosen: its stimuli, or a query where it does not name them; old results go."""
        import gradio as gr

        epochs = self.demo.viewing if source == EXAMPLE else guards.checked_epochs(file) if file else None
        found = stimulus_choices(epochs) if epochs is not None else []
        by_query = epochs is not None and not found
        return (
            gr.update(visible=source == OWN),
            gr.update(choices=found, value=found[0][1] if found else None, visible=not by_query),
            gr.update(visible=by_query),
            next(iter(self.examples.values()), "")
            if source == EXAMPLE
            else result_html(paragraph(HINT, "soft")),
            gr.update(visible=False),
        )

    def pictures(self, files: list[str] | None) -> dict:
        """Pictures came: which of them to map."""
        import gradio as gr

        names = [guards.uploaded(file).name for file in files or []]
        return gr.update(choices=names, value=names[0] if names else None, visible=len(names) > 1)

    def responses_to(self, name: str | None, file: str | None) -> dict:
        """A picture was chosen: its own trials, where a stimulus has its name."""
        import gradio as gr

        if not (name and file):
            return gr.skip()
        known = [value for _, value in stimulus_choices(guards.checked_epochs(file))]
        fits = list(join_pictures(known, [name]))
        return gr.update(value=fits[0]) if fits else gr.skip()

    def train(self, file: str | None, files: list[str] | None, n_epochs: float, trained: dict) -> tuple:
        """A model of this upload, listed and chosen; with its scores."""
        import gradio as gr

        epochs = guards.checked_epochs(file)
        paths = [guards.uploaded(path) for path in files or []]
        for path in paths:
            guards.checked_picture(path)
        model, scores = train_upload(epochs, paths, n_epochs=int(n_epochs))
        name = unused(f"trained on {Path(file).name}", [*trained, DEMO_MODEL])
        words = paragraph("Scores on the fifth that was held out:", "soft") + scores_html(scores)
        trained = trained | {name: model}
        listed = gr.update(choices=[DEMO_MODEL, *trained], value=name)
        shown = gr.update(value=result_html(words), visible=True)
        return trained, listed, shown, self._unseen(model, paths)

    def _unseen(self, model: "JointModel", paths: list[Path]) -> dict:
        """Choose a picture that did not train the model, where there is one."""
        import gradio as gr

        seen = {path.name for path in join_pictures(model.card["training"]["stimuli"], paths).values()}
        names = [path.name for path in paths if path.name not in seen]
        return gr.update(value=names[0]) if names else gr.skip()

    def draw(
        self,
        source: str,
        file: str | None,
        files: list[str] | None,
        model: str,
        picture: str | None,
        stimulus: str | None,
        query: str | None,
        windows: str,
        trained: dict,
    ) -> Iterator[str]:
        """The map of the example, or of the upload, step by step."""
        method = pick("way to cover", windows, WINDOWS)
        if source == EXAMPLE:
            yield from self.example(stimulus, method)
            return
        epochs = guards.checked_epochs(file)
        named = {Path(path).name: path for path in files or []}
        path = named.get(picture) or next(iter(named.values()), None)
        image = guards.checked_picture(path)
        joint = self.demo.model if model == DEMO_MODEL else pick("model", model, trained)
        known = [name for _, name in stimulus_choices(epochs)]
        settings = {"stimulus": stimulus if known else None, "query": query or "", "method": method}
        files = join_pictures(known, files or [])
        others, unread = _checked(files)
        settings |= {"pictures": others, "unread": unread, "name": Path(path).name}
        yield from map_steps(joint, epochs, image, **settings)

    def example(self, stimulus: str, method: str = "occlusion") -> Iterator[str]:
        """The map of a picture of the example, step by step the first time."""
        key = (stimulus, method)
        if key not in self.examples:
            for page in example_steps(self.demo, stimulus, method=method):
                yield page
            self.examples[key] = page
        yield self.examples[key]


def saliency_tab(demo: Demo) -> tuple[Callable[[], str], "gr.HTML"]:
    """Draw the tab inside the current Blocks.

    Returns what fills it when the page opens, and where that goes.
    """
    import gradio as gr

    choices = stimulus_choices(demo.viewing)
    do, ui, told = SaliencyHandlers(demo), _drawn(choices), guards.told
    trained = gr.State({}, time_to_live=3600)
    recording = ([ui.source, ui.eeg], [ui.own_files, ui.trials, ui.query, ui.result, ui.scores])
    ui.source.change(told(do.recording), *recording, **PRIVATE)
    ui.eeg.change(told(do.recording), *recording, **PRIVATE).success(
        told(do.responses_to), [ui.picture, ui.eeg], [ui.trials], **PRIVATE
    )
    ui.pictures.change(told(do.pictures), [ui.pictures], [ui.picture], **PRIVATE)
    ui.picture.change(told(do.responses_to), [ui.picture, ui.eeg], [ui.trials], **PRIVATE)
    ui.train.click(
        with_progress(told(do.train)),
        [ui.eeg, ui.pictures, ui.n_epochs, trained],
        [trained, ui.model, ui.scores, ui.picture],
        **HEAVY,
        **PRIVATE,
    )
    given = [ui.source, ui.eeg, ui.pictures, ui.model, ui.picture, ui.trials, ui.query, ui.windows, trained]
    ui.draw.click(_in_steps(do.draw), given, [ui.result], **HEAVY, **PRIVATE)
    return _in_steps(lambda: do.example(choices[0][1])), ui.result


def _in_steps(steps: Callable[..., Iterator[str]]) -> Callable[..., Iterator[str]]:
    """Pages one after another for a Gradio event, with progress bars, and errors as sentences."""
    shown = with_progress(steps)

    def run(*given: Any) -> Iterator[str]:
        pages = shown(*given)
        step = guards.told(lambda: next(pages, None))
        while (page := step()) is not None:
            yield page

    run.__signature__ = inspect.signature(shown)
    run.__name__ = getattr(steps, "__name__", "run")
    return run


def _drawn(choices: list[tuple[str, str]]) -> SimpleNamespace:
    import gradio as gr

    ui = SimpleNamespace()
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=280):
            ui.source = gr.Radio([EXAMPLE, OWN], value=EXAMPLE, label="Recording")
            with gr.Column(visible=False) as ui.own_files:
                ui.eeg = gr.File(label="Epochs (-epo.fif)", file_types=[".fif", ".gz"], height=120)
                ui.pictures = gr.File(
                    label="Pictures (one, or all to train)",
                    file_types=["image"],
                    file_count="multiple",
                    height=120,
                )
                ui.model = gr.Dropdown([DEMO_MODEL], value=DEMO_MODEL, label="Model")
                ui.train = gr.Button("Train on this upload", size="sm")
                ui.picture = gr.Dropdown([], value=None, label="Picture", visible=False)
            ui.trials = gr.Dropdown(choices, value=choices[0][1], label="Responses to")
            ui.query = gr.Textbox(label="Which trials", placeholder="label == 'face'", visible=False)
            ui.draw = gr.Button("Draw the map", variant="primary")
            with gr.Accordion("Settings", open=False):
                ui.windows = gr.Radio(list(WINDOWS), value=next(iter(WINDOWS)), label="Cover with")
                ui.n_epochs = gr.Slider(5, 100, value=40, step=5, label="Training epochs", buttons=[])
        with gr.Column(scale=3, min_width=300):
            ui.scores = gr.HTML(visible=False)
            ui.result = gr.HTML()
    return ui
