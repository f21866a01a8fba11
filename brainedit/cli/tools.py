"""Commands beside the work: simulated data sets, and what a bug report needs."""

from pathlib import Path
from typing import Annotated

import typer

from brainedit.cli.options import Seed, app, whole_numbers


@app.command()
def simulate(
    name: Annotated[str, typer.Argument(help="things_eeg2, kaneshiro2015 or facecat")],
    out: Annotated[Path, typer.Option("--out", help="folder; written aside and renamed when complete")],
    subjects: Annotated[str, typer.Option(help="people, with commas")] = "1",
    size: Annotated[str, typer.Option(help="full (as published) or small")] = "full",
    seed: Seed = 0,
) -> None:
    """Write a simulated data set in the layout of a published one, with a known truth."""
    from brainedit.jobs.simulate import simulate_files

    print(simulate_files(name, out, subjects=whole_numbers(subjects), size=size, seed=seed))


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
