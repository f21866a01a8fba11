"""Commands from recordings to maps: epochs, audit, the joint embedding, saliency."""

from pathlib import Path
from typing import Annotated

import typer

from brainedit.cli.options import (
    AllowConfounded,
    Out,
    Overwrite,
    Seed,
    app,
    done,
    model_folder,
    refuse,
    train_app,
    whole_numbers,
)


@app.command()
def epochs(
    raw: Annotated[Path, typer.Argument(help="recording: FIF, EDF, BDF, BrainVision or EEGLAB")],
    out: Out,
    events: Annotated[Path | None, typer.Option(help="BIDS events.tsv with stim_file")] = None,
    codes: Annotated[
        Path | None, typer.Option(help="CSV of code and stim_file, for triggers or annotations")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="folder that must hold every picture")] = None,
    tmin: Annotated[float, typer.Option(help="start, s before the picture")] = -0.2,
    tmax: Annotated[float, typer.Option(help="end, s")] = 0.8,
    l_freq: Annotated[float | None, typer.Option(help="high-pass, Hz")] = 0.1,
    h_freq: Annotated[float | None, typer.Option(help="low-pass, Hz")] = 40.0,
    notch: Annotated[float | None, typer.Option(help="mains frequency to remove: 50 or 60 Hz")] = None,
    reference: Annotated[str, typer.Option(help="average, keep, or channel names with commas")] = "average",
    resample: Annotated[float | None, typer.Option(help="new sampling rate, Hz")] = 250.0,
    bads: Annotated[str, typer.Option(help="marked bad channels: keep, interpolate, drop")] = "keep",
    eog: Annotated[str | None, typer.Option(help="eye artefacts: regress or ica")] = None,
    reject_uv: Annotated[float | None, typer.Option(help="drop trials above this peak to peak, µV")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Cut a recording into epochs that name their pictures."""
    from brainedit.jobs.epochs import make_epochs_file

    chosen = reference if reference in ("average", "keep") else reference.split(",")
    preprocessing = {"l_freq": l_freq, "h_freq": h_freq, "notch": notch, "reference": chosen}
    preprocessing |= {"resample": resample, "bads": bads, "eog": eog}
    done(
        make_epochs_file(
            raw,
            out,
            events=events,
            codes=codes,
            images=images,
            tmin=tmin,
            tmax=tmax,
            reject_uv=reject_uv,
            overwrite=overwrite,
            **preprocessing,
        )
    )


@app.command()
def audit(
    epochs: Annotated[Path, typer.Argument(help="epochs (FIF), or with --data the folder of a data set")],
    out: Out,
    data: Annotated[
        str | None, typer.Option(help="a published data set: cvpr40, kaneshiro2015, things_eeg2, ...")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="its person")] = None,
    claim: Annotated[
        str, typer.Option(help="what is to be claimed: picture, category, relevance, direction, map")
    ] = "category",
    split: Annotated[
        str | None,
        typer.Option(help="how test trials are held out: stimulus, concept, block, run, session, subject"),
    ] = None,
    target: Annotated[str | None, typer.Option(help="query on the metadata that is true for targets")] = None,
    images: Annotated[Path | None, typer.Option(help="folder of pictures")] = None,
    pipeline: Annotated[str, typer.Option(help="lda, or joint (needs --images)")] = "lda",
    embargo: Annotated[
        float | None, typer.Option(help="s around test trials without training trials")
    ] = None,
    permutations: Annotated[int, typer.Option(help="of every permutation test")] = 200,
    design_only: Annotated[
        bool, typer.Option("--design-only", help="look at the design, decode nothing")
    ] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Can this design support this claim? The design, the score, and the controls that could refute it."""
    from brainedit.jobs.audit import audit_file

    done(
        audit_file(
            epochs,
            out,
            data=data,
            subject=int(subject) if subject is not None and subject.isdigit() else subject,
            claim=claim,
            split=split,
            target=target,
            images=images,
            pipeline=pipeline,
            embargo=embargo,
            n_permutations=permutations,
            design_only=design_only,
            seed=seed,
            overwrite=overwrite,
        )
    )


@train_app.command("joint")
def train_joint_command(
    out: Out,
    epochs: Annotated[
        Path | None, typer.Option(help="epochs (FIF) whose metadata have stimulus or label")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="folder of pictures; for labels, one folder a label")
    ] = None,
    config: Annotated[str, typer.Option(help="YAML file, or a bundled one by name")] = "joint",
    root: Annotated[
        Path | None, typer.Option(help="folder of a published data set that the configuration names")
    ] = None,
    download: Annotated[
        bool,
        typer.Option("--download", help="fetch what is missing, where a public link and a hash are known"),
    ] = False,
    features: Annotated[
        str | None, typer.Option(help="ready-made features of the data set in place of its pictures")
    ] = None,
    subjects: Annotated[
        str | None, typer.Option(help="people, with commas; overrides the configuration's")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="seeds, with commas; overrides the configuration's")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="people and seeds that are trained at the same time; 1 when not given")
    ] = None,
    pair_by: Annotated[str | None, typer.Option(help="stimulus or label; stimulus when not given")] = None,
    hold_out: Annotated[
        str | None,
        typer.Option(help="test trials are apart in: stimulus, concept, block, run, session, subject"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="overrides the configuration's")] = None,
    no_permuted_twin: Annotated[
        bool,
        typer.Option("--no-permuted-twin", help="train no second model on permuted pairs, a control of maps"),
    ] = False,
    allow_confounded: AllowConfounded = False,
    overwrite: Overwrite = False,
) -> None:
    """Learn the joint embedding and score it on trials that it has not seen.

    From epochs and pictures of your own, or a published protocol (--config joint_things_eeg2 --root DIR).
    """
    from brainedit.config import read_config
    from brainedit.datasets.load import load_dataset
    from brainedit.jobs.joint import train
    from brainedit.jobs.study import study
    from brainedit.joint_training import train_joint

    found = read_config(config, {"joint": train_joint, "data": load_dataset, "protocol": study})
    own = {"--epochs": epochs, "--images": images, "--pair-by": pair_by, "--hold-out": hold_out}
    published = {
        "--root": root,
        "--features": features,
        "--subjects": subjects,
        "--seeds": seeds,
        "--jobs": jobs,
    }
    common = {"allow_confounded": allow_confounded, "overwrite": overwrite}
    if not found["data"]:
        refuse(published, f"The configuration {config!r} names no data set")
        if found["protocol"]:
            raise ValueError(f"The configuration {config!r} has a protocol but no data set (section 'data').")
        if epochs is None or images is None:
            raise ValueError(
                f"The configuration {config!r} names no data set; --epochs and --images are needed."
            )
        settings = found["joint"] | ({} if seed is None else {"seed": seed})
        pairs = {"pair_by": pair_by or "stimulus", "hold_out": hold_out}
        pairs["permuted_twin"] = not no_permuted_twin
        done(train(epochs, images, out, **pairs, **common, **settings))
        return
    own["--no-permuted-twin"] = no_permuted_twin or None
    refuse(own, f"The configuration {config!r} names a data set, which is read from --root")
    data, joint = found["data"], found["joint"]
    data |= ({} if root is None else {"root": root}) | ({"download": True} if download else {})
    if features is not None:
        data, joint = data | {"features": features}, joint | {"image_encoder": "features"}
    protocol = _protocol(found["protocol"], config, subjects, seeds, seed)
    done(study(out, data=data, joint=joint, n_jobs=jobs or 1, **common, **protocol))


@app.command()
def evaluate(
    model: Annotated[Path, typer.Option(help="folder of a trained model")],
    epochs: Annotated[Path, typer.Option(help="epochs (FIF) that did not train it")],
    images: Annotated[Path, typer.Option(help="folder of pictures; for labels, one folder a label")],
    out: Out,
    pair_by: Annotated[str, typer.Option(help="stimulus or label")] = "stimulus",
    subject: Annotated[str | None, typer.Option(help="whose input layer the model uses")] = None,
    allow_confounded: AllowConfounded = False,
    overwrite: Overwrite = False,
) -> None:
    """Score a trained model on a recording that it has not seen."""
    from brainedit.jobs.joint import evaluate as evaluate_model

    done(
        evaluate_model(
            model_folder(model),
            epochs,
            images,
            out,
            pair_by=pair_by,
            subject=subject,
            allow_confounded=allow_confounded,
            overwrite=overwrite,
        )
    )


@app.command()
def saliency(
    model: Annotated[Path, typer.Option(help="folder of a trained model")],
    eeg: Annotated[Path, typer.Option(help="epochs (FIF)")],
    image: Annotated[Path, typer.Option(help="the picture")],
    out: Out,
    trials: Annotated[
        str | None, typer.Option(help="query on the metadata; by default the trials of this picture")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="folder of the recording's pictures, for D; found by --image when not given"),
    ] = None,
    method: Annotated[
        str, typer.Option(help="occlusion, multiscale, rise, gradient or gradcam")
    ] = "occlusion",
    window: Annotated[int, typer.Option(help="side of the covered square, pixels")] = 48,
    stride: Annotated[int, typer.Option(help="its step, pixels")] = 16,
    masks: Annotated[int, typer.Option(help="random masks of the method rise")] = 2000,
    pictures: Annotated[
        int | None,
        typer.Option(
            help="D is measured on at most so many, 4 or more; 24, or 8 with slow methods, when not given; 0: no D",
            min=0,
        ),
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Which part of a picture the response answers to, and whether that comes from the EEG."""
    from brainedit.jobs.saliency import map_picture

    done(
        map_picture(
            model_folder(model),
            eeg,
            image,
            out,
            trials=trials,
            images=images,
            method=method,
            window=window,
            stride=stride,
            n_masks=masks,
            n_pictures=pictures,
            seed=seed,
            overwrite=overwrite,
        )
    )


def _protocol(found: dict, config: str, subjects: str | None, seeds: str | None, seed: int | None) -> dict:
    """The configuration's protocol with the people and seeds of the command line."""
    known = ("kind", "subjects", "seeds", "calibration_pictures")
    if odd := [name for name in found if name not in known]:
        raise ValueError(
            f"{config}: {odd[0]!r} does not belong in section 'protocol'; known there: {', '.join(known)}."
        )
    if seed is not None and seeds is not None:
        raise ValueError(f"Give --seed or --seeds; both came ({seed} and {seeds!r}).")
    seeds = str(seed) if seeds is None and seed is not None else seeds
    given = {"subjects": subjects, "seeds": seeds}
    return found | {name: whole_numbers(text) for name, text in given.items() if text is not None}
