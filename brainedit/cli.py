"""The command: parses, calls one job, prints where the result lies."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="brainedit",
    help="From EEG recorded while people look at pictures: joint embeddings, saliency maps, brain-supervised editing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
train_app = typer.Typer(help="Train a model.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(train_app, name="train")

Out = Annotated[Path, typer.Option("--out", help="result folder; written aside and renamed when complete")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace an older result")]
Seed = Annotated[int, typer.Option("--seed")]
AllowConfounded = Annotated[
    bool,
    typer.Option("--allow-confounded", help="go on where the design supports nothing; all is stamped so"),
]


@app.command()
def demo(out: Out = Path("demo-result"), seed: Seed = 0, overwrite: Overwrite = False) -> None:
    """Run the whole product on a simulated world with a known truth (minutes)."""
    from brainedit.demo import run_demo

    _done(run_demo(out, seed=seed, overwrite=overwrite))


@app.command()
def ui(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on")] = 7860,
    examples: Annotated[
        Path | None, typer.Option(help="a demo result to open with; made when missing")
    ] = None,
    generator: Annotated[
        list[str] | None, typer.Option(help="a generator of your own to choose from; may be given again")
    ] = None,
) -> None:
    """Open the web page."""
    from brainedit.demo import ensure_demo
    from webui.app import launch

    launch(host=host, port=port, demo=ensure_demo(examples), generators=generator or ())


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
    _done(
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

    _done(
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

    _done(
        evaluate_model(
            _model_folder(model),
            epochs,
            images,
            out,
            pair_by=pair_by,
            subject=subject,
            allow_confounded=allow_confounded,
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
        _refuse(published, f"The configuration {config!r} names no data set")
        if found["protocol"]:
            raise ValueError(f"The configuration {config!r} has a protocol but no data set (section 'data').")
        if epochs is None or images is None:
            raise ValueError(
                f"The configuration {config!r} names no data set; --epochs and --images are needed."
            )
        settings = found["joint"] | ({} if seed is None else {"seed": seed})
        pairs = {"pair_by": pair_by or "stimulus", "hold_out": hold_out}
        pairs["permuted_twin"] = not no_permuted_twin
        _done(train(epochs, images, out, **pairs, **common, **settings))
        return
    own["--no-permuted-twin"] = no_permuted_twin or None
    _refuse(own, f"The configuration {config!r} names a data set, which is read from --root")
    data, joint = found["data"], found["joint"]
    data |= ({} if root is None else {"root": root}) | ({"download": True} if download else {})
    if features is not None:
        data, joint = data | {"features": features}, joint | {"image_encoder": "features"}
    protocol = _protocol(found["protocol"], config, subjects, seeds, seed)
    _done(study(out, data=data, joint=joint, n_jobs=jobs or 1, **common, **protocol))


def _refuse(options: dict[str, object], why: str) -> None:
    """Raises ValueError for an option that was given and would be passed over."""
    if given := [name for name, value in options.items() if value is not None]:
        raise ValueError(f"{why}; {given[0]} says nothing there.")


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
    return found | {name: _whole_numbers(text) for name, text in given.items() if text is not None}


@train_app.command("generator")
def train_generator_command(
    pictures: Annotated[Path, typer.Option(help="folder of pictures")],
    out: Out,
    config: Annotated[str, typer.Option(help="YAML file, or a bundled one by name")] = "faces",
    labels: Annotated[
        Path | None, typer.Option(help="CSV: file, then a class or the columns of a condition")
    ] = None,
    start_from: Annotated[
        str | None, typer.Option(help="a saved generator whose weights training starts with")
    ] = None,
    n_pictures: Annotated[
        int | None, typer.Option(help="length of the run; overrides the configuration's")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda")] = None,
    seed: Annotated[int | None, typer.Option(help="overrides the configuration's")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Train a generator on a folder of pictures; a run that was stopped goes on from its checkpoint."""
    from brainedit.adversarial.pictures import read_pictures
    from brainedit.adversarial.train import train_generator
    from brainedit.config import read_config
    from brainedit.jobs.generator import train

    found = read_config(config, {"pictures": read_pictures, "generator": train_generator})
    if labels is not None:
        found["pictures"]["labels"] = labels
    given = {"n_pictures": n_pictures, "seed": seed, "start_from": start_from, "device": device}
    settings = found["generator"] | {name: value for name, value in given.items() if value is not None}
    _done(train(pictures, out, picture_settings=found["pictures"], overwrite=overwrite, **settings))


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

    _done(
        map_picture(
            _model_folder(model),
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


@app.command()
def directions(
    out: Out,
    from_eeg: Annotated[
        list[Path] | None, typer.Option(help="epochs (FIF) of an oddball; again for another person")
    ] = None,
    target: Annotated[str | None, typer.Option(help="query on the metadata that is true for targets")] = None,
    latents: Annotated[Path | None, typer.Option(help="CSV or safetensors, one row a stimulus")] = None,
    generator: Annotated[str, typer.Option(help="name, folder or checkpoint of a generator")] = "faces",
    model: Annotated[
        Path | None, typer.Option(help="a joint model, which then finds the direction too")
    ] = None,
    space: Annotated[str, typer.Option(help="z, w or w+")] = "z",
    method: Annotated[
        str, typer.Option(help="ridge, svr, mean_difference, logistic, hierarchical")
    ] = "ridge",
    classifier: Annotated[
        str, typer.Option(help="lda, xdawn, auto, eegnet, eeginceptionerp, or joint (needs --model)")
    ] = "lda",
    preset: Annotated[
        str | None, typer.Option(help="time windows: davis2022, davis2022_public, kangassalo2020")
    ] = None,
    scheme: Annotated[
        str, typer.Option(help="what a fold leaves out: run, block, subject, stimulus, task_pair")
    ] = "run",
    task: Annotated[
        str | None, typer.Option(help="whose trials give the relevance, of several tasks")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="reliability: who is told better weighs more")] = None,
    groups: Annotated[
        str | None, typer.Option(help="metadata column: pictures of a group are nearly the same")
    ] = None,
    lock: Annotated[
        list[Path] | None, typer.Option(help="a direction to stay at right angles to; may be given again")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="compares all arms by it: painted/smile, smile, age, gender, ...")
    ] = None,
    name: Annotated[str, typer.Option(help="what the direction is called")] = "",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Find a direction in a generator's latent space from EEG."""
    from brainedit.jobs.directions import direction_from_eeg

    needed = {"--from-eeg": from_eeg, "--target": target, "--latents": latents}
    if missing := [option for option, value in needed.items() if not value]:
        raise ValueError(f"A direction from EEG needs {', '.join(needed)}; {missing[0]} is missing.")
    _done(
        direction_from_eeg(
            from_eeg,
            out,
            target=target,
            generator=generator,
            latents=latents,
            model=_model_folder(model) if model else None,
            space=space,
            method=method,
            classifier=classifier,
            preset=preset,
            scheme=scheme,
            task=task,
            weights=weights,
            groups=groups,
            locks=lock or (),
            judge=judge,
            name=name,
            seed=seed,
            overwrite=overwrite,
        )
    )


@app.command()
def edit(
    direction: Annotated[Path, typer.Option(help="direction.safetensors")],
    out: Out,
    generator: Annotated[str, typer.Option(help="name, folder or checkpoint of a generator")] = "faces",
    strengths: Annotated[
        str, typer.Option(help="multiples of the direction's scale, with commas")
    ] = "-3,-2,-1,0,1,2,3",
    latents: Annotated[Path | None, typer.Option(help="pictures to edit; new ones when not given")] = None,
    n: Annotated[int | None, typer.Option("--n", help="how many new pictures; 6 when not given")] = None,
    photo: Annotated[
        Path | None, typer.Option(help="edit the face in a photograph: invert, move, paste back")
    ] = None,
    eyes: Annotated[
        str | None, typer.Option(help="centres of both eyes in the photograph, pixels: x,y,x,y")
    ] = None,
    paste: Annotated[
        str | None, typer.Option(help="what goes back into the photograph: picture, or change alone")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="of a photograph's inversion; 500 when not given")] = None,
    path: Annotated[
        str, typer.Option(help="line, great_circle (z of a generator that normalises it), or auto")
    ] = "auto",
    layers: Annotated[str | None, typer.Option(help="that are moved in w+, e.g. 4-8 or 0,1,4")] = None,
    lock: Annotated[
        list[Path] | None, typer.Option(help="a direction along which nothing moves; may be given again")
    ] = None,
    gif: Annotated[bool, typer.Option("--gif", help="a moving picture of each")] = False,
    scan: Annotated[bool, typer.Option("--scan", help="measure where another face begins")] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Move pictures, or the face in a photograph, along a direction."""
    from brainedit.jobs.edit import edit_file
    from brainedit.jobs.edit_photo import edit_photo_file

    shared = {"generator": generator, "strengths": _numbers(strengths), "path": path, "locks": lock or ()}
    shared |= {"layers": _layers(layers), "seed": seed, "overwrite": overwrite}
    if photo is None:
        _refuse({"--eyes": eyes, "--paste": paste, "--steps": steps}, "There is no --photo")
        given = {"latents": latents, "gif": gif, "scan": scan} | ({} if n is None else {"n": n})
        _done(edit_file(direction, out, **given, **shared))
        return
    new = {"--latents": latents, "--n": n, "--gif": gif or None, "--scan": scan or None}
    _refuse(new, "With --photo one photograph is edited")
    given = {"paste": paste, "steps": steps, "eyes": _eyes(eyes)}
    given = {key: value for key, value in given.items() if value is not None}
    _done(edit_photo_file(direction, photo, out, **given, **shared))


@app.command()
def invert(
    images: Annotated[Path, typer.Option(help="folder of pictures")],
    out: Out,
    generator: Annotated[str, typer.Option(help="name, folder or checkpoint of a generator")] = "faces",
    space: Annotated[str, typer.Option(help="z, w or w+")] = "w+",
    steps: Annotated[int, typer.Option(help="of the optimiser")] = 500,
    restarts: Annotated[int, typer.Option(help="starts for each picture, of which the best goes on")] = 4,
    noise: Annotated[bool, typer.Option(help="fit the noise maps too")] = False,
    label: Annotated[int | None, typer.Option(help="class, for a conditional generator")] = None,
    encoder: Annotated[Path | None, typer.Option(help="an inversion encoder to start from")] = None,
    perceptual: Annotated[str, typer.Option(help="efficientnet_lite0 or lpips")] = "efficientnet_lite0",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Find the latents of pictures; says how near the generator comes."""
    from brainedit.jobs.invert import invert_folder

    _done(
        invert_folder(
            images,
            out,
            generator=generator,
            space=space,
            steps=steps,
            n_restarts=restarts,
            optimise_noise=noise,
            label=label,
            encoder=encoder,
            perceptual=perceptual,
            seed=seed,
            overwrite=overwrite,
        )
    )


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="StyleGAN2, StyleGAN3 or Progressive GAN, in PyTorch")],
    out: Out,
    licence: Annotated[str, typer.Option(help="what its weights may be used for")] = "",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Read anyone's generator without running its code; write safetensors and JSON."""
    from brainedit.jobs.convert import convert as convert_file

    _done(convert_file(checkpoint, out, licence=licence, seed=seed, overwrite=overwrite))


@app.command()
def simulate(
    name: Annotated[str, typer.Argument(help="things_eeg2 or kaneshiro2015")],
    out: Annotated[Path, typer.Option("--out", help="folder; written aside and renamed when complete")],
    subjects: Annotated[str, typer.Option(help="people, with commas")] = "1",
    size: Annotated[str, typer.Option(help="full (as published) or small")] = "full",
    seed: Seed = 0,
) -> None:
    """Write a simulated data set in the layout of a published one, with a known truth."""
    from brainedit.jobs.simulate import simulate_files

    print(simulate_files(name, out, subjects=_whole_numbers(subjects), size=size, seed=seed))


@app.command("sys-info")
def sys_info() -> None:
    """Versions, processor, accelerator: what to paste into a bug report."""
    import os
    import platform

    import torch

    from brainedit.encoders.features import cache_folder
    from brainedit.report import versions

    for name, value in versions().items():
        print(f"{name:14} {value}")
    print(f"{'platform':14} {platform.platform()}")
    print(f"{'processors':14} {os.cpu_count()} ({torch.get_num_threads()} used by torch)")
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    print(f"{'accelerator':14} {device}")
    print(f"{'cache':14} {cache_folder()}")


def main() -> None:
    """Run the command; what a user can mend is one sentence and exit code 2, never a traceback."""
    import logging
    import os

    # threads that wait sleep instead of spinning: twice as fast beside other work, read before torch loads
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("MNE_LOGGING_LEVEL", "warning")  # MNE tells its steps on standard output
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        app(standalone_mode=False)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(_explained(error))


def _explained(error: Exception) -> int:
    """Print one sentence for an error of the user's; let a bug show its traceback."""
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
        return 2
    if hasattr(error, "format_message"):  # typer's own: a wrong option, a missing argument
        print(f"brainedit: {error.format_message()}", file=sys.stderr)
        return 2
    if isinstance(error, (ValueError, FileNotFoundError, TypeError)):
        print(f"brainedit: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        print(f"brainedit: {error.strerror or error}{where}; nothing was written.", file=sys.stderr)
        return 2
    raise error


def _done(folder: Path) -> None:
    import os

    if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks
        print(f"{folder}/report.html")


def _model_folder(path: Path) -> Path:
    """A model, or a result folder that holds one."""
    return path / "model" if (path / "model" / "model.json").is_file() else path


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"Strengths are numbers with commas between; {text!r} came.") from None


def _layers(text: str | None) -> list[int] | None:
    """Layers such as "4-8" (both ends) or "0,1,4"."""
    if text is None:
        return None
    found = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    except ValueError:
        found = []
    if not found:
        raise ValueError(
            f"Layers are whole numbers or ranges such as 4-8, with commas between; {text!r} came."
        )
    return found


def _eyes(text: str | None) -> list[list[float]] | None:
    if text is None:
        return None
    try:
        left_x, left_y, right_x, right_y = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"Eyes are four numbers with commas between, x,y,x,y; {text!r} came.") from None
    return [[left_x, left_y], [right_x, right_y]]


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"People and seeds are whole numbers with commas between; {text!r} came.") from None


if __name__ == "__main__":
    main()
