"""Commands of generators: directions, edits, inversion, training, conversion."""

from pathlib import Path
from typing import Annotated

import typer

from brainedit.cli.options import Out, Overwrite, Seed, app, done, model_folder, numbers, refuse, train_app

_NO_EEG = {"generator", "seed", "n_axes", "layers"}
_ROUTES = {  # what a direction comes from, and the settings that say something there; None: the other routes' do not
    "from_eeg": None,
    "from_labels": {"generator", "seed", "latents", "space", "method", "lock", "name"},
    "from_weights": _NO_EEG,
    "from_samples": _NO_EEG,
    "config": {"generator", "seed", "root"},
}


@app.command()
def directions(
    context: typer.Context,
    out: Out,
    from_eeg: Annotated[
        list[Path] | None, typer.Option(help="epochs (FIF) of an oddball; again for another person")
    ] = None,
    from_labels: Annotated[
        Path | None, typer.Option(help="CSV with the columns stimulus and label; no EEG")
    ] = None,
    from_weights: Annotated[
        bool, typer.Option("--from-weights", help="what the generator's weights move most (SeFa); no EEG")
    ] = False,
    from_samples: Annotated[
        int | None, typer.Option(help="along what so many samples of w vary most (GANSpace); no EEG")
    ] = None,
    target: Annotated[str | None, typer.Option(help="query on the metadata that is true for targets")] = None,
    latents: Annotated[Path | None, typer.Option(help="CSV or safetensors, one row a stimulus")] = None,
    generator: Annotated[str, typer.Option(help="name, folder or checkpoint of a generator")] = "faces",
    model: Annotated[
        Path | None, typer.Option(help="a joint model, which then finds the direction too")
    ] = None,
    space: Annotated[str, typer.Option(help="z, w or w+")] = "z",
    method: Annotated[
        str,
        typer.Option(help="ridge, svr, mean_difference, logistic, hierarchical; interfacegan from labels"),
    ] = "ridge",
    classifier: Annotated[
        str, typer.Option(help="lda, xdawn, auto, eegnet, eeginceptionerp, or joint (needs --model)")
    ] = "lda",
    preset: Annotated[
        str | None, typer.Option(help="time windows: davis2022, davis2022_public, kangassalo2020")
    ] = None,
    scheme: Annotated[
        str, typer.Option(help="what a fold leaves out: run, block, subject, stimulus, task_pair, auto")
    ] = "auto",
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
    n_axes: Annotated[int, typer.Option(help="how many directions, from weights or samples")] = 5,
    layers: Annotated[
        str | None, typer.Option(help="of w+ that weights or samples move, e.g. 4-8 or 0,1,4")
    ] = None,
    config: Annotated[str | None, typer.Option(help="a published study in place of EEG: davis2022")] = None,
    root: Annotated[
        Path | None, typer.Option(help="the study's published files; simulated ones when not given")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Find directions in a generator's latent space: from EEG, labels, weights, samples, or by a published study."""
    route = _route(context)
    shared = {"generator": generator, "seed": seed, "overwrite": overwrite}
    if route == "config":
        values = {"root": root, "generator": generator, "seed": seed}
        given = {key: values[key] for key in values.keys() & _given(context)}
        _published_study(config, out, given, overwrite=overwrite)
        return
    if route == "from_labels":
        found = {"space": space, "method": method, "locks": lock or (), "name": name}
        _direction_from_labels(from_labels, out, latents, found | shared)
        return
    if route != "from_eeg":
        _directions_of_generator(from_samples, out, {"n_axes": n_axes, "layers": _layers(layers)} | shared)
        return
    from brainedit.jobs.directions import direction_from_eeg

    needed = {"--from-eeg": from_eeg, "--target": target, "--latents": latents}
    if missing := [option for option, value in needed.items() if not value]:
        raise ValueError(f"A direction from EEG needs {', '.join(needed)}; {missing[0]} is missing.")
    done(
        direction_from_eeg(
            from_eeg,
            out,
            target=target,
            generator=generator,
            latents=latents,
            model=model_folder(model) if model else None,
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

    shared = {"generator": generator, "strengths": numbers(strengths), "path": path, "locks": lock or ()}
    shared |= {"layers": _layers(layers), "seed": seed, "overwrite": overwrite}
    if photo is None:
        refuse({"--eyes": eyes, "--paste": paste, "--steps": steps}, "There is no --photo")
        if latents is not None:
            refuse({"--n": n}, "With --latents the pictures of the file are edited")
        given = {"latents": latents, "gif": gif, "scan": scan} | ({} if n is None else {"n": n})
        done(edit_file(direction, out, **given, **shared))
        return
    new = {"--latents": latents, "--n": n, "--gif": gif or None, "--scan": scan or None}
    refuse(new, "With --photo one photograph is edited")
    if eyes is None:
        _check_square(photo)
    given = {"paste": paste, "steps": steps, "eyes": _eyes(eyes)}
    given = {key: value for key, value in given.items() if value is not None}
    done(edit_photo_file(direction, photo, out, **given, **shared))


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

    done(
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
    done(train(pictures, out, picture_settings=found["pictures"], overwrite=overwrite, **settings))


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

    done(convert_file(checkpoint, out, licence=licence, seed=seed, overwrite=overwrite))


def _given(context: typer.Context) -> set[str]:
    """Names of the settings that are on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def _route(context: typer.Context) -> str:
    """What `directions` starts from; ValueError for none, for two, and for what says nothing there."""
    given, options = _given(context), {p.name: p.opts[0] for p in context.command.params}
    chosen = [name for name in _ROUTES if name in given]
    if len(chosen) != 1:
        came = " and ".join(options[name] for name in chosen) or "none"
        raise ValueError(
            f"Directions come from one of {', '.join(options[n] for n in _ROUTES)}; {came} came."
        )
    route = chosen[0]
    known = _ROUTES[route] or set(options) - {"root", "n_axes", "layers"}
    extra = sorted(given - known - {route, "out", "overwrite"})
    why = f"The directions come from {options[route]}"
    if route == "config":
        why = f"The configuration {context.params['config']!r} holds a whole study"
    refuse({options[name]: True for name in extra}, why)
    return route


def _direction_from_labels(labels: Path, out: Path, latents: Path | None, settings: dict) -> None:
    from brainedit.jobs.directions_without_eeg import direction_from_labels

    if latents is None:
        raise ValueError("A direction from labels needs --from-labels, --latents; --latents is missing.")
    done(direction_from_labels(labels, out, latents=latents, **settings))


def _directions_of_generator(n_samples: int | None, out: Path, settings: dict) -> None:
    from brainedit.jobs.directions_without_eeg import directions_from_samples, directions_from_weights

    if n_samples is None:
        done(directions_from_weights(out, **settings))
    else:
        done(directions_from_samples(n_samples, out, **settings))


def _published_study(config: str, out: Path, given: dict, *, overwrite: bool) -> None:
    from brainedit.config import read_config
    from brainedit.jobs.directions_study import davis_study

    settings = read_config(config, {"study": davis_study})["study"]
    if not settings:
        raise ValueError(f"The configuration {config!r} holds no study of directions (section 'study').")
    done(davis_study(out, **settings | given, overwrite=overwrite))


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


def _check_square(photo: Path) -> None:
    """ValueError for a photograph that must be told where the eyes are."""
    from brainedit.encoders.image import read_picture

    height, width = read_picture(photo).shape[:2]
    if height != width:
        raise ValueError(
            f"The photograph has {width} x {height} pixels and is not square; say with --eyes where both eyes are."
        )
