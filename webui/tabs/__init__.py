"""What the three tabs share: the demo they open with, and results as HTML."""

import functools
import html
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mne
    import pandas as pd

    from brainedit.directions import Direction
    from brainedit.generators.base import Generator
    from brainedit.joint import JointModel

HEAVY = {"concurrency_id": "heavy", "concurrency_limit": 1}  # one such job at a time, whoever asks
PRIVATE = {"api_visibility": "private"}
EXAMPLE, OWN = "Example", "Your files"
SIMULATED = "Simulated EEG: nothing here was measured on a person."


@dataclass
class Demo:
    """The folder that the page opens with; its parts are loaded when they are first needed.

    generator : a name, or a folder written by `save_generator`
    own : generators of the user's own that can be chosen too: names, folders or checkpoints
    """

    root: Path
    generator: str
    target: str
    space: str
    attribute: str
    own: tuple[str, ...] = ()
    _makers: dict[str, "Generator"] = field(default_factory=dict, repr=False)

    @cached_property
    def model(self) -> "JointModel":
        from brainedit.joint import load_joint

        return load_joint(self.root / "model")

    @cached_property
    def viewing(self) -> "mne.BaseEpochs":
        from brainedit.eeg import read_epochs

        return read_epochs(self.root / "viewing" / "epochs-epo.fif")

    @cached_property
    def faces(self) -> "mne.BaseEpochs":
        from brainedit.eeg import read_epochs

        return read_epochs(self.root / "faces" / "epochs-epo.fif")

    @cached_property
    def latents(self) -> "pd.DataFrame":
        from brainedit.datasets.latents import read_latents

        return read_latents(self.root / "faces" / "latents.safetensors")

    @cached_property
    def directions(self) -> dict[str, "Direction"]:
        """Saved directions by the name they are listed under."""
        from brainedit.directions import Direction

        files = sorted((self.root / "directions").glob("*.safetensors"))
        found = [Direction.load(path) for path in files]
        found.sort(key=lambda d: d.reliability is None)  # what was measured comes first
        return {unused(d.name or "unnamed", [x.name for x in found[:i]]): d for i, d in enumerate(found)}

    @cached_property
    def generators(self) -> dict[str, str]:
        """What can be chosen: shown name -> what `load_generator` takes."""
        shown = {Path(self.generator).name: self.generator} | {Path(path).name: path for path in self.own}
        return shown | {"faces": "faces"}

    def maker(self, name: str) -> "Generator":
        """A generator of `generators`, loaded once."""
        from brainedit._check import pick
        from brainedit.generators.load import load_generator

        if name not in self._makers:
            self._makers[name] = load_generator(pick("generator", name, self.generators))
        return self._makers[name]

    @property
    def default_maker(self) -> str:
        return next(iter(self.generators))

    def picture(self, stimulus: str) -> Path:
        """The file of a picture of the viewing example."""
        return self.root / "viewing" / "pictures" / stimulus


def read_demo(root: str | Path, *, own: Sequence[str] = ()) -> Demo:
    """The demo in a folder.

    own : generators of the user's own, offered beside the demo's

    Raises FileNotFoundError or ValueError when the folder holds none.
    """
    root = Path(root)
    if not (root / "demo.json").is_file():
        raise FileNotFoundError(f"There is no demo in {root}; run `brainedit demo` first.")
    try:
        record = json.loads((root / "demo.json").read_text(encoding="utf-8"))
        wanted = {key: str(record[key]) for key in ("generator", "target", "space", "attribute")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{root / 'demo.json'} is damaged ({error}); run `brainedit demo` again.") from error
    beside = root / wanted["generator"]
    if beside.is_dir():
        wanted["generator"] = str(beside)
    return Demo(root=root, own=tuple(own), **wanted)


def unused(name: str, taken: Sequence[str]) -> str:
    """The name, numbered where it is taken."""
    n, new = 1, name
    while new in taken:
        n, new = n + 1, f"{name} ({n + 1})"
    return new


def with_progress(function: Callable) -> Callable:
    """The function for a Gradio event, with the library's progress bars shown on the page."""
    import gradio as gr

    @functools.wraps(function)
    def run(*given):
        return function(*given[:-1])

    bar = inspect.Parameter(
        "progress", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=gr.Progress(track_tqdm=True)
    )
    known = inspect.signature(function)
    run.__signature__ = known.replace(parameters=[*known.parameters.values(), bar])
    return run


# results as HTML


def paragraph(words: str, kind: str = "") -> str:
    """A paragraph; kind: "", "verdict", "soft", "notice"."""
    return f'<p class="be-{kind or "text"}">{html.escape(words)}</p>' if words else ""


def panels(pictures: Sequence[tuple[Any, str]], *, kind: str = "panels") -> str:
    """Pictures of equal size side by side, each under its title; they wrap on a narrow screen."""
    from brainedit.report import data_uri

    cells = "".join(
        f'<figure><figcaption>{title}</figcaption><img src="{data_uri(p)}" alt="{title}"></figure>'
        for p, title in ((picture, html.escape(title)) for picture, title in pictures)
    )
    return f'<div class="be-{kind}">{cells}</div>'


def result_html(*parts: str) -> str:
    """One result: its parts in order, inside the frame that the style sheet knows."""
    return f'<div class="be-result">{"".join(parts)}</div>'
