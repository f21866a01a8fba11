"""What the Saliency tab shows of one picture: coarse maps at once, then finer ones, then what they are worth."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brainedit.report import figure_html, is_simulated, scores_html
from webui.tabs import SIMULATED, panels, paragraph, result_html

if TYPE_CHECKING:
    import mne

    from brainedit.joint import JointModel

MADE_ON_SIMULATED = "The model was trained on simulated EEG."
CONFOUNDED_MODEL = (
    "CONFOUNDED: this model was trained on a design that supports no claim. Nothing here is evidence."
)
COVERED = (
    "Warm: covering this part lowers the fit between picture and response; cold: it raises it. Right: the same "
    "for responses to other pictures, on the same scale."
)
N_PICTURES = 8  # D of the page is measured on so many, in a few seconds
REFINING = "A coarse map; it grows finer."
MEASURING = "Measuring whether the map comes from the EEG."
UNTWINNED = "A model trained on this page has no twin; the command “brainedit train joint” trains one."
COARSE_D = (
    f"D is measured on at most {N_PICTURES} pictures with squares side by side; the command “brainedit "
    "saliency” takes 24 pictures and squares that overlap."
)
COMMAND = (
    "Upload the recording's other pictures too, or run the command “brainedit "
    "saliency”, which finds them by itself."
)
STRETCHES = (
    "The map when only this stretch of the response is kept, the rest being the mean of the other trials. Below: "
    "the same for a response to another picture."
)


def map_html(model: "JointModel", epochs: "mne.BaseEpochs", picture: Any, **settings: Any) -> str:
    """The last of `map_steps`: all that is found of one picture, as HTML."""
    *_, page = map_steps(model, epochs, picture, **settings)
    return page


def map_steps(
    model: "JointModel",
    epochs: "mne.BaseEpochs",
    picture: str | Path | np.ndarray,
    *,
    stimulus: str | None = None,
    query: str = "",
    pictures: Mapping[str, Any] | None = None,
    twin: Any = UNTWINNED,
    name: str | None = None,
    unread: Sequence[str] = (),
    **settings: Any,
) -> Iterator[str]:
    """Picture, map, shuffled-EEG map, electrodes and times, as HTML: coarse at once, then finer, then with a verdict.

    stimulus : the trials are those of this stimulus; else those for which `query` on the metadata is true
    pictures : of the recording, by stimulus: the EEG-dependence D is measured on eight of them
    name : the picture's file, to tell whether it trained the model; unread : pictures that could not be read
    settings : of `brainedit.jobs.picture_maps.picture_maps`

    Raises ValueError when no trial is chosen, or the epochs do not fit the model.
    """
    from brainedit.jobs.brain_maps import brain_maps
    from brainedit.jobs.map_dependence import dependence_sources, picture_dependence
    from brainedit.jobs.map_trials import memorised
    from brainedit.jobs.picture_maps import map_maker, picture_maps

    own = _own_trials(epochs, stimulus, query)
    path = name or (picture if isinstance(picture, str | Path) else None)
    told = memorised(model, epochs, own, path)
    told += [f"Left out, since they cannot be read: {', '.join(unread)}."] * bool(unread)
    notices = _notices(model, epochs, told)
    for drawn in _refined(model, epochs, picture, own, **settings):
        yield result_html(notices, paragraph(REFINING, "soft"), drawn)
    maps = picture_maps(model, epochs, picture, own, twin=twin, **settings)
    sources = dependence_sources(model, epochs, pictures or {}, own, picture, n_most=N_PICTURES)
    brain = brain_maps(model, epochs, maps.image, own, sources)
    shown = _three_panels(maps.image, maps.own, maps.shuffled) + _brain_html(model, maps, brain)
    yield result_html(notices, paragraph(MEASURING, "soft"), shown)
    window = settings.get("window", 48)
    maker = map_maker(settings.get("method", "occlusion"), window=window, stride=window)
    dependence = picture_dependence(model, epochs, sources, maker, twin=twin)
    yield result_html(notices, _verdict_html(maps, dependence), shown)


def _own_trials(epochs: "mne.BaseEpochs", stimulus: str | None, query: str) -> np.ndarray:
    from brainedit.jobs.map_trials import stimuli_of
    from brainedit.relevance import metadata_of, target_mask

    if stimulus is None and not query.strip():
        raise ValueError("Choose the trials: by their stimulus, or by a question such as label == 'face'.")
    if stimulus is not None:
        names = stimuli_of(epochs)
        return np.zeros(len(epochs), bool) if names is None else np.array(names == stimulus, bool)
    return target_mask(metadata_of(epochs), query)


def _refined(
    model: "JointModel",
    epochs: "mne.BaseEpochs",
    picture: Any,
    own: np.ndarray,
    *,
    method: str = "occlusion",
    window: int = 48,
    stride: int = 16,
    n_controls: int = 100,
    seed: int = 0,
    **_: Any,
) -> Iterator[str]:
    """The three panels from the coarsest map to the finest; nothing for methods without steps."""
    import torch

    from brainedit.jobs.map_trials import mean_responses
    from brainedit.jobs.picture_maps import GREY, prepare_picture
    from saliency.image import occlusion_steps

    if method != "occlusion":
        return
    image, eeg = prepare_picture(model, picture), model.prepare_eeg(epochs)
    responses = mean_responses(eeg, epochs, own, n_controls=n_controls, seed=seed)
    score = model.score_images(torch.stack([responses.own, responses.others[0]]))
    for maps in occlusion_steps(score, image, window=window, stride=stride, fill=GREY):
        yield _three_panels(image.cpu(), *maps.cpu().numpy())


def _brain_html(model: "JointModel", maps: Any, brain: Any) -> str:
    from brainedit.jobs.brain_maps import model_info
    from brainedit.jobs.joint import stamp_of
    from saliency.plots import neural_figure, time_strip

    tmin, mask = model.eeg_input.settings["tmin"], None if brain.clusters is None else brain.clusters.mask
    electrodes = neural_figure(brain.neural, model_info(model), tmin, mask=mask, unit="F")
    caption = (
        "Which electrode, when: integrated gradients of F with this picture, EEG in units of its noise. "
    )
    caption += brain.tested
    strip = time_strip(maps.image, maps.window_maps, maps.windows, control=maps.window_controls, unit="F")
    stamp = stamp_of(model)
    return figure_html(electrodes, caption, stamp=stamp) + figure_html(strip, STRETCHES, stamp=stamp)


def _verdict_html(maps: Any, dependence: Any) -> str:
    """Whether the map comes from the EEG, as the command's report says it, and what that rests on."""
    from brainedit.jobs.saliency_sections import SEEN, dependence_score, left_out, map_sentence, verdict_of

    table = "" if dependence.result is None else scores_html([dependence_score(dependence.result)])
    trials = f"Mean of {maps.n_trials} trial{'s' * (maps.n_trials != 1)}. {map_sentence(maps)}"
    verdict, dot, rest = verdict_of(maps, dependence).partition(". ")
    return "".join(
        (
            paragraph(verdict + dot.strip(), "verdict"),
            paragraph(rest),
            table,
            paragraph(SEEN * (dependence.seen and bool(table))),
            paragraph(" ".join(left_out(dependence)), "soft"),
            paragraph(COARSE_D if table else f"{dependence.why_not} {COMMAND}", "soft"),
            paragraph(trials, "soft"),
        )
    )


def _notices(model: "JointModel", epochs: "mne.BaseEpochs", told: Sequence[str]) -> str:
    simulated = epochs.metadata is not None and is_simulated(epochs.metadata)
    by_simulated = model.card["training"]["simulated"] and not simulated
    stamped = model.card["training"].get("design") == "confounded"
    notices = (CONFOUNDED_MODEL * stamped, SIMULATED * simulated)
    notices += (MADE_ON_SIMULATED * by_simulated, *told)
    return "".join(paragraph(words, "notice") for words in notices)


def _three_panels(image: Any, own: np.ndarray, control: np.ndarray) -> str:
    from saliency.plots import overlay

    limit = float(max(np.abs(own).max(), np.abs(control).max())) or 1.0
    shown = [overlay(image, heat, limit=limit) for heat in (own, control)]
    picture = image.permute(1, 2, 0).numpy()  # (h, w, 3)
    scale = f'<div class="be-scale"><span>−{limit:.2g}</span><i></i><span>+{limit:.2g} F</span></div>'
    titles = ("Picture", "EEG", "Shuffled EEG")
    return panels(list(zip((picture, *shown), titles, strict=True))) + scale + paragraph(COVERED, "soft")
