"""Build the page and serve it to this machine alone."""

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webui import guards

if TYPE_CHECKING:
    import gradio as gr

logger = logging.getLogger(__name__)

LOCAL = ("127.0.0.1", "localhost", "::1")
HOUR = 3600


def launch(
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    demo: str | Path | None = None,
    generators: Sequence[str] = (),
) -> None:
    """Serve the page until it is interrupted.

    host : 127.0.0.1 answers this machine alone; any other address lets others in, without a password
    demo : folder with the example that the page opens with; None makes it, or takes the one made before
    generators : names, folders or checkpoints that can be chosen beside the bundled ones

    Raises ValueError when the port is taken, the demo is damaged or a generator cannot be read,
    FileNotFoundError when there is no demo.
    """
    if not 1 <= port <= 65535:
        raise ValueError(f"A port is a number from 1 to 65535; got {port}.")
    if demo is None:
        from brainedit.demo import ensure_demo

        demo = ensure_demo()
    if host not in LOCAL:
        logger.warning("Whoever can reach %s can use this page: it has no password.", host)
    page = build(demo, generators=generators)
    print(f"The page: http://{host}:{port}  (Ctrl+C ends it)", flush=True)
    try:
        page.launch(server_name=host, server_port=port, **launch_settings())
    except OSError as error:
        raise ValueError(f"Port {port} cannot be used ({error}); choose another --port.") from error


def build(demo: str | Path, *, generators: Sequence[str] = ()) -> "gr.Blocks":
    """The page over a demo folder, not yet served; pass `launch_settings()` to its `launch`.

    generators : as in `launch`; each is read once, now, so that a file that cannot be read is told at the start

    Raises FileNotFoundError or ValueError when the folder holds no demo.
    """
    _prepare_gradio()
    import gradio as gr

    from webui.tabs import read_demo
    from webui.tabs.directions import directions_tab
    from webui.tabs.edit import edit_tab
    from webui.tabs.saliency import saliency_tab

    world = read_demo(demo, own=generators)
    for name in generators:
        world.maker(Path(name).name)
    with gr.Blocks(
        title="brainedit", analytics_enabled=False, delete_cache=(HOUR, 6 * HOUR), fill_width=False
    ) as page:
        made = gr.State({}, time_to_live=6 * HOUR)
        gr.HTML(HEADER)
        with gr.Tabs(elem_classes="be-tabs"):
            with gr.Tab("Saliency"):
                gr.HTML(LEAD.format("Which part of a picture a brain response answers to."))
                saliency, saliency_out = saliency_tab(world)
            with gr.Tab("Directions"):
                gr.HTML(LEAD.format("The direction in which faces grow more relevant to the viewer."))
                directions, directions_out, found = directions_tab(world, made)
            with gr.Tab("Edit"):
                gr.HTML(LEAD.format("Move a face along a direction."))
                edit, given, shown = edit_tab(world, made, found=found)
        quiet = {"api_visibility": "private", "concurrency_id": "heavy", "concurrency_limit": 1}
        page.load(edit, given, shown, api_visibility="private", show_progress="hidden")
        page.load(saliency, None, [saliency_out], **quiet).then(directions, None, [directions_out], **quiet)
    return page.queue(default_concurrency_limit=1, max_size=32)


def launch_settings() -> dict[str, Any]:
    """How the page is served: nothing shared, nothing recorded, uploads limited, no stack traces."""
    import gradio as gr

    return {
        "share": False,
        "show_error": False,
        "quiet": True,
        "inbrowser": False,
        "max_file_size": guards.MAX_FILE_SIZE,
        "ssr_mode": False,
        "mcp_server": False,
        "enable_monitoring": False,
        "run_history": False,
        "pwa": False,
        "footer_links": [],
        "theme": _theme(gr),
        "css": CSS,
    }


def _prepare_gradio() -> None:
    """Before Gradio is used: no telemetry, and an upload folder of this process's own that ends with it."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    if "GRADIO_TEMP_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="brainedit-uploads-")
        os.environ["GRADIO_TEMP_DIR"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _theme(gr: Any) -> Any:
    """The report's colours and the system's own typefaces, so that nothing is fetched."""
    accent = dict(zip(SHADES, ACCENTS, strict=True))
    ink = dict(zip(SHADES, INKS, strict=True))
    return gr.themes.Base(
        primary_hue=gr.themes.Color(**accent),
        secondary_hue=gr.themes.Color(**accent),
        neutral_hue=gr.themes.Color(**ink),
        radius_size=gr.themes.sizes.radius_md,
        font=["system-ui", "-apple-system", "Segoe UI", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    ).set(
        body_background_fill="#ffffff",
        body_background_fill_dark="#161a20",
        block_background_fill="#ffffff",
        block_border_color="#e3e6eb",
        block_border_color_dark="#323843",
        block_label_text_color="#5b6472",
        block_label_text_color_dark="#a0a8b5",
        block_title_text_color="#5b6472",
        block_title_text_color_dark="#a0a8b5",
        block_title_text_weight="500",
        button_primary_background_fill="#1d2430",
        button_primary_background_fill_hover="#323a48",
        button_primary_background_fill_dark="#e8eaee",
        button_primary_background_fill_hover_dark="#ffffff",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#161a20",
        slider_color="#b3452c",
        slider_color_dark="#f08a6c",
        block_shadow="none",
        input_background_fill="#f6f7f9",
        input_border_color="#e3e6eb",
    )


SHADES = [f"c{n}" for n in (50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 950)]
ACCENTS = [
    "#fdf5f2", "#fae7e1", "#f4cbc0", "#eba997", "#f08a6c", "#c9603f", "#b3452c", "#953924", "#77301f", "#5d281c",
    "#33130c",
]  # fmt: skip
INKS = [
    "#f6f7f9", "#eef0f3", "#e3e6eb", "#c9ced6", "#a0a8b5", "#7b8492", "#5b6472", "#414a59", "#2a313d", "#1e232b",
    "#161a20",
]  # fmt: skip
HEADER = (
    '<header class="be-top"><span>brainedit</span><p>EEG recorded while people look at pictures: '
    "what it answers to, and faces edited by it.</p></header>"
)
LEAD = '<p class="be-lead">{}</p>'
CSS = """
:root{--be-ink:#1d2430;--be-soft:#5b6472;--be-line:#e3e6eb;--be-wash:#f6f7f9;--be-accent:#b3452c}
.dark{--be-ink:#e8eaee;--be-soft:#a0a8b5;--be-line:#323843;--be-wash:#1e232b;--be-accent:#f08a6c}
.gradio-container{max-width:76rem!important;margin:0 auto!important;padding:1.2rem 1.25rem 4rem!important;
 color:var(--be-ink);font-size:15px}
.gradio-container .html-container{padding-left:0;padding-right:0}
.be-top{display:flex;flex-wrap:wrap;align-items:baseline;gap:.2rem 1rem;padding:.4rem 0 .2rem}
.be-top span{color:var(--be-accent);font-weight:650;font-size:1.25rem;letter-spacing:-.01em}
.be-top p{color:var(--be-soft);margin:0}
.be-lead{font-size:1.1rem;color:var(--be-ink);margin:.6rem 0 .8rem}
.be-result{color:var(--be-ink);line-height:1.55}
.be-result p{margin:.45rem 0;max-width:46rem;color:var(--be-ink)}
.be-result p.be-soft{color:var(--be-soft);font-size:.9rem}
.be-result p.be-verdict{font-size:1.12rem;font-weight:550}
.be-result p.be-notice{border-left:3px solid var(--be-accent);background:var(--be-wash);padding:.5rem .9rem;
 max-width:none;margin:0 0 .8rem}
.gradio-container .be-result section h2{font-size:1.05rem;font-weight:600;margin:1.8rem 0 .3rem;padding-top:1rem;
 border-top:1px solid var(--be-line);color:var(--be-ink)}
.be-result figure{margin:0}
.be-result img{display:block;width:100%;height:auto;border-radius:6px;margin:0}
.be-result figcaption{color:var(--be-soft);font-size:.88rem;margin:.2rem 0 .35rem}
.be-panels{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:.9rem;margin:1rem 0 .4rem}
.be-pair{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:1.2rem;max-width:40rem}
.be-strip{display:grid;grid-template-columns:repeat(7,minmax(0,1fr));gap:.45rem;max-width:40rem;margin:1rem 0}
.be-strip figcaption{font-size:.75rem;text-align:center}
.be-scale{display:flex;align-items:center;gap:.6rem;color:var(--be-soft);font-size:.82rem;
 font-variant-numeric:tabular-nums;justify-content:flex-end}
.be-scale i{width:9rem;height:.55rem;border-radius:3px;
 background:linear-gradient(90deg,#274b9f,#3b8fd0,#8fd0ea,#f6f7f9,#ffd166,#f4773b,#bd1f36)}
.be-result figure.wide{margin:1.4rem 0 0}
.be-result figure.wide img{background:#fff;min-width:34rem;max-width:54rem;width:100%}
.be-result .scroll{overflow-x:auto;contain:inline-size}
.be-result table,.be-result tr{border:0!important}
.be-result table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums;width:auto}
.be-result th,.be-result td{text-align:right;padding:.3rem .8rem;border:0;border-bottom:1px solid var(--be-line);
 white-space:nowrap;background:none;color:var(--be-ink);font-weight:400}
.be-result th[scope=row]{text-align:left;padding-left:0}
.be-result thead th{color:var(--be-soft);font-size:.85rem}
@media (max-width:640px){.gradio-container{padding:.8rem .7rem 3rem!important}
 .be-panels{grid-template-columns:1fr 1fr}.be-panels figure:first-child{grid-column:1/3;max-width:50%}
 .be-pair{gap:.6rem}.be-strip{grid-template-columns:repeat(4,1fr)}}
"""
