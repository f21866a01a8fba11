"""Commands to begin with: the demo and the web page."""

from pathlib import Path
from typing import Annotated

import typer

from brainedit.cli.options import Out, Overwrite, Seed, app, done


@app.command()
def demo(out: Out = Path("demo-result"), seed: Seed = 0, overwrite: Overwrite = False) -> None:
    """Run the whole product on a simulated world with a known truth (minutes)."""
    from brainedit.demo import run_demo

    done(run_demo(out, seed=seed, overwrite=overwrite))


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
