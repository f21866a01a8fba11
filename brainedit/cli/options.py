"""What all commands share: the application, common options, and how values are read."""

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


def done(folder: Path) -> None:
    """Print where the result lies."""
    import os

    if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks
        print(f"{folder}/report.html")


def model_folder(path: Path) -> Path:
    """A model, or a result folder that holds one."""
    return path / "model" if (path / "model" / "model.json").is_file() else path


def refuse(options: dict[str, object], why: str) -> None:
    """Raises ValueError for an option that was given and would be passed over."""
    if given := [name for name, value in options.items() if value is not None]:
        raise ValueError(f"{why}; {given[0]} says nothing there.")


def numbers(text: str) -> list[float]:
    """Strengths as they are written on the command line."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"Strengths are numbers with commas between; {text!r} came.") from None


def whole_numbers(text: str) -> list[int]:
    """People and seeds as they are written on the command line."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"People and seeds are whole numbers with commas between; {text!r} came.") from None
