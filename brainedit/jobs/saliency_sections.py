"""What a report says of a picture's map: first whether it comes from the EEG, then where, when and in which band."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from brainedit.evaluation import Score
from brainedit.figures import ACCENT, CALM, INK, SOFT, new_figure, style
from brainedit.jobs.brain_maps import BrainMaps, model_info
from brainedit.jobs.map_dependence import MapDependence
from brainedit.jobs.picture_maps import PictureMaps
from brainedit.joint import JointModel
from brainedit.report import Section, p_text
from saliency.dependence import EEGDependence
from saliency.faithfulness import Faithfulness
from saliency.plots import band_figure, neural_figure, saliency_figure, time_strip
from saliency.sanity import SanityCheck, map_verdict

if TYPE_CHECKING:
    from brainedit.jobs.saliency import Explained

PICTURE = "Which part of the picture"
SEEN = "Some of these pictures trained the model: D may show what it memorised."


def map_sections(
    model: JointModel, found: "Explained", *, name: str = "", box: tuple | None = None
) -> list[Section]:
    """Dependence on the EEG first; then picture, times, electrodes, bands, faithfulness.

    name : of the picture; box : of the region that was coded, where that is known
    """
    return [
        dependence_section(found.maps, found.dependence),
        resemblance_section(found.maps, found.dependence),
        picture_section(found.maps, name=name, box=box),
        _time_section(found.maps),
        brain_section(model, found.brain),
        _band_section(model, found.brain),
        _faithfulness_section(found.faithfulness),
    ]


def verdict_of(maps: PictureMaps, dependence: MapDependence) -> str:
    """Do the maps come from the EEG: by D where there is one, else by the p of this one map."""
    checks = {check.name: check for check in (*maps.checks, *dependence.checks)}
    evidence = maps.p if dependence.result is None else dependence.result
    return map_verdict(evidence, list(checks.values()))


def map_sentence(maps: PictureMaps) -> str:
    """What the z of this one map says."""
    differs = (
        "This map differs from those that other responses give for this picture"
        if maps.p <= 0.05
        else "By itself this map cannot be told from those that other responses give for this picture"
    )
    told = f"{differs}: largest |z| against {len(maps.controls)} maps of other EEG, p = {p_text(maps.p)}."
    if maps.n_mixed <= 0.1 * len(maps.controls):
        return told
    return (
        f"{told} Too few other pictures were shown as often, so {maps.n_mixed} of these mix the trials of several "
        "pictures; such means hold less of any picture, and z and p look better than they are."
    )


def dependence_section(maps: PictureMaps, dependence: MapDependence) -> Section:
    """D with its null; where there is none, why, and what this one map says."""
    result = dependence.result
    if result is None:
        return Section("Does the map come from the brain?", [dependence.why_not, map_sentence(maps)])
    text = [
        f"D, over {result.n_pictures} pictures of this recording: how much better maps from two halves of the trials "
        "of one picture agree (correlation over pixels) than maps from half of its trials and half of another "
        "picture's, both drawn on the same picture. The null exchanges which response's half is whose."
    ]
    if dependence.seen:
        text.append(SEEN)
    caption = (
        "D with its 95 % interval. Dots: what each picture adds. Grey: where D lies in 95 % of cases when maps do "
        "not depend on the EEG."
    )
    pictures = [(dependence_figure(result), caption)]
    return Section("Does the map come from the brain?", text, [dependence_score(result)], pictures)


def resemblance_section(maps: PictureMaps, dependence: MapDependence) -> Section:
    """How much the map resembles maps that lack what should matter."""
    text = (
        "Rank correlation over pixels with maps that should differ. Smooth maps of unrelated things reach .3 and more "
        "by chance on one picture; the mean over pictures tells more."
    )
    return Section("What the map resembles", [text], table=_check_table(maps, dependence))


def dependence_score(result: EEGDependence) -> Score:
    """D as a row of the report's table."""
    return Score(
        name="EEG-dependence D",
        value=result.value,
        n=result.n_pictures,
        unit="picture",
        chance=round(float(np.mean(result.null_interval)), 3) + 0.0,  # no "-0.000" in the table
        low=result.ci[0],
        high=result.ci[1],
        p=result.p,
        n_permutations=result.n_permutations,
        permuted="which response's half is whose",
    )


def dependence_figure(result: EEGDependence) -> Figure:
    """D, its interval and its pictures over the interval of the null."""
    figure = new_figure(7.2, 1.5)
    axes = figure.add_subplot()
    axes.axvspan(*result.null_interval, color=SOFT, alpha=0.25, lw=0)
    axes.plot(
        result.by_picture,
        np.resize([-0.6, -0.4], result.n_pictures),
        "o",
        color=CALM,
        ms=3.5,
        alpha=0.7,
        mew=0,
    )
    axes.plot(result.ci, [0.35, 0.35], color=ACCENT, lw=2.2, solid_capstyle="round")
    axes.plot([result.value], [0.35], "o", color=ACCENT, ms=8)
    axes.annotate(
        f"D = {result.value:.2f}",
        (result.value, 0.35),
        (0, 9),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=INK,
    )
    axes.axvline(0, color=SOFT, lw=0.6)
    axes.set_ylim(-0.9, 1.1)
    axes.set_yticks([])
    axes.set_xlabel("EEG-dependence", fontsize=8)
    style(axes)
    axes.spines["left"].set_visible(False)
    return figure


def picture_section(maps: PictureMaps, *, name: str = "", box: tuple | None = None) -> Section:
    """Picture, map, and the map for a response to another picture."""
    figure = saliency_figure(maps.image, maps.own, maps.controls[0], box=box, unit="F")
    caption = (
        "Warm: this part raises the fit to the response; cold: it lowers it. Right: the same for responses to another "
        "picture, on the same scale."
    )
    trials = f"{name}, from the mean of {maps.n_trials} trial{'s' * (maps.n_trials != 1)}.".lstrip(", ")
    return Section(PICTURE, [trials, map_sentence(maps)], pictures=[(figure, caption)])


def brain_section(model: JointModel, brain: BrainMaps) -> Section:
    """Electrodes and times, with the cells that a cluster test marks."""
    mask = None if brain.clusters is None else brain.clusters.mask
    figure = neural_figure(
        brain.neural, model_info(model), model.eeg_input.settings["tmin"], mask=mask, unit="F"
    )
    caption = (
        "Integrated gradients of F with this picture, from the mean of the other trials to the mean response."
    )
    marked = " Outlined and dotted: clusters with p at most .05." if mask is not None and mask.any() else ""
    return Section("Which electrode, when", [brain.tested], pictures=[(figure, caption + marked)])


def _time_section(maps: PictureMaps) -> Section:
    figure = time_strip(maps.image, maps.window_maps, maps.windows, control=maps.window_controls, unit="F")
    caption = (
        "The map when only this stretch of the response is kept and the rest is the mean of the other trials. "
        "Below: the same for a response to another picture."
    )
    return Section("When the response answers to it", pictures=[(figure, caption)])


def _band_section(model: JointModel, brain: BrainMaps) -> Section:
    figure = band_figure(brain.by_band, model_info(model), brain.bands, unit="F")
    caption = (
        "Fall of F when the phases of one band in one channel of the mean response are drawn anew; mean of 8 draws. "
        "What differs from trial to trial is not in the mean response."
    )
    return Section("In which frequency band", pictures=[(figure, caption)])


def _faithfulness_section(found: Faithfulness) -> Section:
    rows = [
        (
            name,
            *(f"{row[key]:.2f}" for key in ("heat", "edges", "random")),
            f"{row['low']:.2f} to {row['high']:.2f}",
        )
        for name, row in found.table().to_dict("index").items()
    ]
    against = f", {'z' if found.unit == 'z' else found.unit} against {found.against}" if found.against else ""
    text = (
        f"F while the map's strongest pixels go first (deletion, fill: {found.fill}; lower is better) or come first "
        f"(insertion into: {found.start}; higher is better), {found.step} pixels at a time: area under the curve"
        f"{against}. A map is faithful where it beats edges and random orders in both."
    )
    head = ("", "map", "edges", "random", "95 % of random")
    return Section("Does F live on the pixels that the map names?", [text], table=(head, rows))


def _check_table(
    maps: PictureMaps, dependence: MapDependence
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """What gave another map, and how much this picture's map, and those of D's pictures, resemble it."""
    over = {check.name: check for check in dependence.checks}
    n = 0 if dependence.result is None else dependence.result.n_pictures
    head = ("the map is compared with the map when", "r", "r of |values|", *([f"r, {n} pictures"] * (n > 0)))
    rows = []
    for check in maps.checks:
        mean = over.get(check.name)
        several = ["" if mean is None or not mean.ran else f"{mean.r:.2f}"] * (n > 0)
        rows.append((_shown(check), *_r(check), *several))
    return head, rows


def _shown(check: SanityCheck) -> str:
    return check.what_it_shows if check.ran else f"{check.what_it_shows}: not run. {check.why_not}"


def _r(check: SanityCheck) -> tuple[str, str]:
    return (f"{check.r:.2f}", f"{check.r_abs:.2f}") if check.ran else ("", "")
