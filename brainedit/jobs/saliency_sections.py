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
from saliency.dependence import ALPHA, EEGDependence
from saliency.drawing import blank_figure, colour_bar
from saliency.faithfulness import Faithfulness
from saliency.plots import band_figure, neural_figure, overlay, saliency_figure, time_strip
from saliency.sanity import ALIKE, SanityCheck, map_verdict

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
    """Do the maps come from the EEG: by D and this map where D covers it, else first by the p of this map."""
    result = dependence.result
    if result is None or result.p_floor > ALPHA:
        return map_verdict(maps.p, maps.checks)
    over_pictures = map_verdict(result, dependence.checks)
    if dependence.mapped:
        return f"{over_pictures} {_this_map(maps)}"
    return f"{map_verdict(maps.p, maps.checks)} For other pictures of this recording, without this one: {over_pictures}"


def map_sentence(maps: PictureMaps) -> str:
    """What the z of this one map says, and what it was compared with."""
    differs = (
        "This map differs from those that other responses give for this picture"
        if maps.p <= ALPHA
        else "By itself this map cannot be told from those that other responses give for this picture"
    )
    n = len(maps.controls)
    against = (
        f"{n} maps from as many trials drawn at random from all, this picture's among them (a permutation test; too "
        "few other pictures were shown as often to take one map of each)"
        if maps.permuted
        else f"the maps of {n} other pictures' responses, as many trials each"
    )
    return f"{differs}: largest |z| against {against}, p = {p_text(maps.p)}."


def _this_map(maps: PictureMaps) -> str:
    """This one map under a lead that is about many: its p, and what it resembles too much."""
    compared = [(max(check.r, check.r_abs), check) for check in maps.checks if check.ran]
    alike, closest = max(compared, key=lambda pair: pair[0], default=(0.0, None))
    told = "differs" if maps.p <= ALPHA else "cannot be told"
    found = (
        f"This picture's map by itself {told} from those that other responses give (p = {p_text(maps.p)})."
    )
    if alike < ALIKE:
        return found
    return f"{found} Most of it is there too when {closest.what_it_shows} (r = {alike:.2f})."


def dependence_section(maps: PictureMaps, dependence: MapDependence) -> Section:
    """D with its null; where there is none, why, and what this one map says."""
    result = dependence.result
    if result is None:
        text = [dependence.why_not, *left_out(dependence), map_sentence(maps)]
        return Section("Does the map come from the brain?", text)
    text = [
        f"D, over {result.n_pictures} pictures of this recording: how much better maps from two halves of the trials "
        "of one picture agree (correlation over pixels) than maps from half of its trials and half of another "
        "picture's, both drawn on the same picture. The null exchanges which response's half is whose."
    ]
    text += left_out(dependence)
    if dependence.seen:
        text.append(SEEN)
    caption = (
        "D with its 95 % interval. Dots: what each picture adds. Grey: where D lies in 95 % of cases when maps do "
        "not depend on the EEG."
    )
    pictures = [(dependence_figure(result), caption)]
    return Section("Does the map come from the brain?", text, [dependence_score(result)], pictures)


def left_out(dependence: MapDependence) -> list[str]:
    """Which trials and pictures D was not measured on."""
    told = []
    if dependence.where and dependence.result is not None:
        told.append(
            f"The recording has several subjects or sessions: D takes the trials of {dependence.where} alone, which "
            "has most of this picture's."
        )
    if dependence.result is not None and not dependence.mapped:
        told.append("This picture is not among them: it was shown less than twice there.")
    if dependence.unread:
        names = ", ".join(dependence.unread)
        told.append(f"Pictures whose files cannot be read were left out: {names}.")
    return told


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
    figure = saliency_figure(maps.image, maps.own, maps.shuffled, box=box, unit="F")
    caption = (
        "Warm: this part raises the fit to the response; cold: it lowers it. Right: the same for responses to another "
        "picture, on the same scale."
    )
    trials = f"{name}, from the mean of {maps.n_trials} trial{'s' * (maps.n_trials != 1)}.".lstrip(", ")
    told = "z: the map less the mean of the maps of other EEG, in their standard deviations."
    return Section(
        PICTURE, [trials, map_sentence(maps)], pictures=[(figure, caption), (z_figure(maps), told)]
    )


def z_figure(maps: PictureMaps) -> Figure:
    """Where the map differs from those of other EEG, over the picture."""
    limit = float(np.abs(maps.z).max()) or 1.0
    figure = blank_figure(3.6, 3.1)
    axes = figure.add_subplot()
    axes.imshow(overlay(maps.image, maps.z, limit=limit), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title("z against other EEG", loc="left", fontsize=10.5, color=INK, pad=6)
    colour_bar(figure, axes.inset_axes([1.05, 0, 0.05, 1]), limit=limit, unit="z", alpha=0.8)
    return figure


def brain_section(model: JointModel, brain: BrainMaps) -> Section:
    """Electrodes and times, with the cells that a cluster test marks."""
    mask = None if brain.clusters is None else brain.clusters.mask
    figure = neural_figure(
        brain.neural, model_info(model), model.eeg_input.settings["tmin"], mask=mask, unit="F"
    )
    caption = (
        "Integrated gradients of F with this picture, from the mean of the other trials to the mean response, in units "
        "of the noise (after the model's whitening): there a channel that holds signal adds to F."
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
        "What differs from trial to trial is not in the mean response. EEG in units of its noise, as above."
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
