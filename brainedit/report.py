"""A result folder: written aside and renamed when whole, with result.json and one self-contained page."""

import base64
import hashlib
import html
import io
import json
import mimetypes
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brainedit.evaluation import Score

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from PIL.Image import Image

    Picture = Figure | Image | Path | np.ndarray

VERSIONED = ("brainedit", "torch", "mne", "scikit-learn", "numpy", "captum")
SIMULATED = "Simulated EEG. Nothing on this page was measured on a person."


@dataclass
class Section:
    """A heading, sentences, a table of scores, pictures with captions."""

    title: str
    text: Sequence[str] = ()
    scores: Sequence[Score] = ()
    pictures: Sequence[tuple["Picture", str]] = ()
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None


@dataclass
class Result:
    """What a job found: figures for result.json, sections for the page.

    warnings : sentences that a reader must see before the figures
    stamp : what must stand on every picture and in every file, e.g. "CONFOUNDED"; "" for nothing
    """

    job: str
    title: str
    lead: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str | Path] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    sections: list[Section] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    simulated: bool = False
    stamp: str = ""

    def write(self, folder: Path) -> None:
        """result.json and report.html into a folder, whose other files are stamped where the result is."""
        text = json.dumps(self._record(), default=_plain)
        record = json.loads(text, parse_constant=lambda _: None)  # JSON knows no NaN
        (folder / "result.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (folder / "report.html").write_text(_page(self), encoding="utf-8")
        if self.stamp:
            stamp_files(folder, self.stamp)

    def _record(self) -> dict:
        scores = [score.as_dict() for section in self.sections for score in section.scores]
        return {
            "job": self.job,
            "simulated": self.simulated,
            **({"stamp": self.stamp} if self.stamp else {}),
            "warnings": self.warnings,
            "scores": scores,
            "figures": self.figures,
            "settings": self.settings,
            "inputs": {name: {"path": str(p), "sha256": sha256_of(p)} for name, p in self.inputs.items()},
            "versions": versions(),
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def check_out(out: str | Path, *, overwrite: bool = False) -> None:
    """Raises ValueError when `out` exists and may not be replaced; a job asks before its work."""
    out = Path(out)
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        if not (out / "result.json").is_file():
            raise ValueError(f"{out} exists and is no result of brainedit; choose another --out.")
        if not overwrite:
            raise ValueError(f"{out} holds an older result; choose another --out or add --overwrite.")


@contextmanager
def result_folder(out: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write into, renamed to `out` when the block ends without an error.

    Until then it is OUT.partial; on an error it is removed, and an older result stays as it was.
    overwrite : replace an existing result (a folder with result.json); other folders are never replaced

    Raises ValueError when `out` exists and may not be replaced.
    """
    out = Path(out)
    check_out(out, overwrite=overwrite)
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        older = out.with_name(out.name + ".older")
        shutil.rmtree(older, ignore_errors=True)  # left by a run that was killed here
        if out.exists():
            out.rename(older)
        partial.rename(out)
        shutil.rmtree(older, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def sha256_of(path: str | Path) -> str:
    """The sha256 of a file, or of the names and contents of a folder's files in the order of their names."""
    path = Path(path)
    if not path.is_dir():
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_of(file)}".encode())
    return digest.hexdigest()


def is_simulated(metadata: "pd.DataFrame") -> bool:
    """True when any of these trials says of itself that it was simulated."""
    return "simulated" in metadata and bool(metadata["simulated"].any())


def versions() -> dict[str, str]:
    """Python's version and those of the libraries that decide a result."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _plain(value: Any) -> Any:
    """JSON for what results hold: numpy scalars and arrays, paths, scores."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Score):
        return value.as_dict()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written to result.json")


# the page


def _page(result: Result) -> str:
    notices = ([SIMULATED] if result.simulated else []) + result.warnings
    if result.stamp:
        notices = [f"{result.stamp}: nothing on this page is evidence of what its title asks.", *notices]
    body = [f"<header><p class=mark>brainedit</p><h1>{_text(result.title)}</h1>"]
    body.append(f"<p class=lead>{_text(result.lead)}</p></header>" if result.lead else "</header>")
    body += [f"<p class=notice>{_text(notice)}</p>" for notice in notices]
    body += [section_html(section, stamp=result.stamp) for section in result.sections]
    body.append(_details(result))
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{_text(result.title)}</title><style>{STYLE}</style><main>{''.join(body)}</main></html>\n"
    )


def section_html(section: Section, *, stamp: str = "") -> str:
    """A section as HTML: heading, sentences, scores, table, pictures inside the page. All text is escaped."""
    mark = f" ({_text(stamp)})" if stamp else ""
    parts = [f"<section><h2>{_text(section.title)}{mark}</h2>"]
    parts += [f"<p>{_text(sentence)}</p>" for sentence in section.text]
    if section.scores:
        parts.append(scores_html(section.scores))
    if section.table:
        parts.append(_table(*section.table))
    parts += [figure_html(picture, caption, stamp=stamp) for picture, caption in section.pictures]
    return "".join(parts) + "</section>"


def figure_html(picture: "Picture", caption: str, *, stamp: str = "") -> str:
    """A picture with its caption; it scrolls sideways where the page is too narrow for it."""
    image = f'<img src="{data_uri(picture, stamp=stamp)}" alt="{_text(caption)}">'
    return f"<figure class=wide><div class=scroll>{image}</div><figcaption>{_text(caption)}</figcaption></figure>"


def scores_html(scores: Sequence[Score]) -> str:
    """A table of scores with interval, chance, p and n."""
    rows = [
        (
            s.name,
            f"{s.value:.3f}",
            f"{s.low:.3f} to {s.high:.3f}",
            f"{s.chance:.3f}",
            p_text(s.p),
            f"{s.n} people" if s.unit == "person" else f"{s.n} {s.unit}s",
        )
        for s in scores
    ]
    return _table(("", "value", "95 % interval", "chance", "p", "n"), rows)


def p_text(p: float | None) -> str:
    """A p value as it is printed: three decimals or two digits, "< .001" below, nothing for None."""
    if p is None:
        return ""
    if p < 0.001:
        return "< .001"
    return f"{p:.2g}" if p < 0.01 else f"{p:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th scope=col>{_text(h)}</th>" for h in head)
    body = "".join(
        f"<tr><th scope=row>{_text(row[0])}</th>" + "".join(f"<td>{_text(c)}</td>" for c in row[1:]) + "</tr>"
        for row in rows
    )
    return f"<div class=scroll><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _details(result: Result) -> str:
    record = result._record()
    shown = {key: record[key] for key in ("settings", "inputs", "versions", "written")}
    text = html.escape(json.dumps(shown, indent=1, default=_plain))
    return f"<details><summary>Settings, inputs, versions</summary><pre>{text}</pre></details>"


def data_uri(picture: "Picture", *, stamp: str = "") -> str:
    """A picture inside the page, as a data URI.

    picture : a matplotlib figure, a PIL image, a file, or an array (h, w, 3) of uint8 or of floats in 0 to 1
    stamp : words across the picture
    """
    if isinstance(picture, Path) and not stamp:
        kind = mimetypes.guess_type(picture.name)[0] or "image/png"
        return f"data:{kind};base64," + base64.b64encode(picture.read_bytes()).decode()
    buffer = io.BytesIO()
    image = _as_image(picture)
    (_stamped(image, stamp) if stamp else image).save(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _as_image(picture: "Picture") -> "Image":
    from PIL import Image

    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8:
            picture = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
        return Image.fromarray(picture)
    if hasattr(picture, "savefig"):
        drawn = io.BytesIO()
        picture.savefig(drawn, format="png", dpi=150, bbox_inches="tight")
        return Image.open(drawn)
    return Image.open(picture) if isinstance(picture, Path) else picture


def _stamped(image: "Image", stamp: str) -> "Image":
    """The picture with a band above it that bears the stamp, so that no copy goes without."""
    from PIL import Image, ImageDraw, ImageFont

    height = max(14, min(image.width // 22, 48))
    font = ImageFont.load_default(size=height * 0.7)
    length = int(font.getlength(stamp)) + 8
    banded = Image.new("RGB", (max(image.width, length), image.height + height), "#b3452c")
    banded.paste(image.convert("RGB"), (0, height))
    draw = ImageDraw.Draw(banded)
    for left in range(4, banded.width, length + 8):
        draw.text((left, height * 0.08), stamp, fill="white", font=font)
    return banded


def stamp_files(folder: Path, stamp: str) -> None:
    """Put a stamp on all files of a folder: a band on pictures, `stamp` in JSON, the name of tables and arrays."""
    from PIL import Image

    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        if file.suffix in (".png", ".jpg", ".jpeg"):
            with Image.open(file) as image:
                banded = _stamped(image, stamp)
            banded.save(file)
        elif file.suffix == ".json":
            content = json.loads(file.read_text(encoding="utf-8"))
            content = {"stamp": stamp} | (content if isinstance(content, dict) else {"content": content})
            file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        elif file.suffix in (".npy", ".npz", ".csv", ".fif"):
            file.rename(file.with_name(f"{stamp}_{file.name}"))


def _text(value: object) -> str:
    return html.escape(str(value))


def scores_text(scores: Mapping[str, Score] | Sequence[Score]) -> str:
    """One line a score, for the terminal."""
    values = scores.values() if isinstance(scores, Mapping) else scores
    return "\n".join(f"  {score}" for score in values)


STYLE = """
:root{--ink:#1d2430;--soft:#5b6472;--line:#e3e6eb;--paper:#fff;--wash:#f6f7f9;--accent:#b3452c}
@media (prefers-color-scheme:dark){:root{--ink:#e8eaee;--soft:#a0a8b5;--line:#323843;--paper:#161a20;
--wash:#1e232b;--accent:#f08a6c} img{border-radius:6px;background:#fff}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.6 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:62rem;margin:0 auto;padding:3rem 1.5rem 5rem}
.mark{color:var(--accent);font-weight:600;letter-spacing:.04em;margin:0}
h1{font-size:2rem;line-height:1.2;margin:.3rem 0 .6rem;letter-spacing:-.015em}
h2{font-size:1.25rem;margin:3rem 0 .5rem;padding-top:1.2rem;border-top:1px solid var(--line)}
p{max-width:44rem;margin:.5rem 0}.lead{font-size:1.1rem;color:var(--soft)}
.notice{border-left:3px solid var(--accent);background:var(--wash);padding:.6rem 1rem;max-width:none}
figure{margin:1.4rem 0}img{max-width:100%;height:auto;display:block}
figcaption{color:var(--soft);font-size:.9rem;margin-top:.4rem;max-width:44rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.35rem .9rem;border-bottom:1px solid var(--line);white-space:nowrap}
th[scope=row]{text-align:left;font-weight:500;padding-left:0;white-space:normal;min-width:11rem}
thead th{color:var(--soft);font-weight:500;font-size:.85rem}thead th:first-child{text-align:left;padding-left:0}
details{margin-top:3rem;color:var(--soft)}pre{background:var(--wash);padding:1rem;overflow-x:auto;font-size:.8rem}
"""
