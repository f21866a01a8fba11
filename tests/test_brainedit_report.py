"""Result folders are whole or not there; the page holds all it shows, and nothing it was told to run."""

import base64
import hashlib
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from brainedit.evaluation import Score
from brainedit.report import (
    SIMULATED,
    Result,
    Section,
    data_uri,
    is_simulated,
    p_text,
    result_folder,
    scores_text,
    section_html,
    sha256_of,
    stamp_files,
)

SCORE = Score("relevance AUC", 0.75, 40, "trial", 0.5, 0.6, 0.9, p=0.0004, n_permutations=2000)
EVIL = "<script>alert('x')</script>"


def a_result(**more):
    figure = Figure((2, 1))
    figure.add_subplot().plot([0, 1])
    image = Image.new("RGB", (3, 3), "red")
    section = Section(
        "Found", ["One sentence."], [SCORE], [(figure, "a line"), (image, "red")], (("", "n"), [("a", "3")])
    )
    return Result("test", "A title", "A lead.", sections=[section], **more)  # fmt: skip


def written(result, out, **settings):
    with result_folder(out, **settings) as folder:
        result.write(folder)
    return out


def test_a_folder_appears_whole_and_under_its_name(tmp_path):
    out = tmp_path / "deep" / "out"
    with result_folder(out) as folder:
        assert folder.name == "out.partial"
        assert not out.exists()
        (folder / "a.txt").write_text("a")
    assert [p.name for p in out.iterdir()] == ["a.txt"]
    assert [p.name for p in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_leaves_nothing_and_an_older_result_as_it_was(tmp_path, error):
    def half(out, **settings):
        with result_folder(out, **settings) as folder:
            (folder / "half.txt").write_text("half")
            raise error("full")

    with pytest.raises(error, match="full"):
        half(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    old = written(a_result(), tmp_path / "old")
    before = sha256_of(old)
    with pytest.raises(error, match="full"):
        half(old, overwrite=True)
    assert sha256_of(old) == before
    assert list(tmp_path.iterdir()) == [old]


def test_only_an_older_result_is_replaced_and_only_when_asked(tmp_path):
    old = written(a_result(), tmp_path / "old")
    (old / "stale.txt").write_text("old")
    with pytest.raises(ValueError, match=r"old holds an older result; .* --overwrite"), result_folder(old):
        pass
    written(a_result(), old, overwrite=True)
    assert not (old / "stale.txt").exists()
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for path in (thesis, tmp_path / "file"):
        with (
            pytest.raises(ValueError, match=f"{path.name} exists and is no result of brainedit"),
            result_folder(path, overwrite=True),
        ):
            pass
    assert (thesis / "chapter.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    assert (written(a_result(), tmp_path / "empty") / "report.html").is_file()


def test_a_killed_run_does_not_stand_in_the_way(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "half.txt").write_text("half")
    out = written(a_result(), tmp_path / "out")
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "result.json"]


def test_the_record_is_json_with_scores_inputs_and_versions(tmp_path):
    (tmp_path / "input").write_bytes(b"abc")
    figures = {
        "mean": np.float32(0.5),
        "map": np.eye(2),
        "lost": float("nan"),
        "score": SCORE,
        "at": tmp_path,
    }
    result = a_result(inputs={"eeg": tmp_path / "input"}, figures=figures, settings={"seed": 3})

    def no_nan(word):
        raise AssertionError(word)

    text = (written(result, tmp_path / "out") / "result.json").read_text()
    record = json.loads(text, parse_constant=no_nan)
    assert record["scores"][0] == SCORE.as_dict()
    assert record["figures"]["map"] == [[1, 0], [0, 1]]
    assert (record["figures"]["mean"], record["figures"]["lost"]) == (0.5, None)
    assert record["inputs"]["eeg"]["sha256"] == hashlib.sha256(b"abc").hexdigest()
    assert record["settings"] == {"seed": 3}
    assert {"python", "torch", "mne"} <= record["versions"].keys()
    with pytest.raises(TypeError, match="object cannot be written to result"):
        written(a_result(figures={"x": object()}), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_page_holds_all_that_it_shows(tmp_path):
    page = (written(a_result(), tmp_path / "out") / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|src=[\"']?(?!data:|[\"']data:)|<script|<link|@import|url\(", page)
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(sources) == 2
    assert all(base64.b64decode(s).startswith(b"\x89PNG") for s in sources)
    for words in (
        "A title",
        "A lead.",
        "One sentence.",
        "relevance AUC",
        "0.750",
        "0.600 to 0.900",
        "40 trials",
    ):
        assert words in page
    assert "&lt; .001" in page


def test_what_a_file_is_called_is_not_run(tmp_path):
    result = a_result(warnings=[EVIL], settings={"name": EVIL}, simulated=True)
    result.title = result.lead = EVIL
    picture = (Image.new("RGB", (2, 2)), f'"{EVIL}')
    result.sections.append(
        Section(EVIL, [EVIL], [Score(EVIL, 0, 1, EVIL, 0, 0, 0)], [picture], ((EVIL,), [(EVIL,)]))
    )
    page = (written(result, tmp_path / "out") / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert '""' not in page


def test_simulated_eeg_is_called_so(tmp_path):
    for simulated in (True, False):
        out = written(a_result(simulated=simulated), tmp_path / "out", overwrite=True)
        assert (SIMULATED in (out / "report.html").read_text()) == simulated
        assert json.loads((out / "result.json").read_text())["simulated"] == simulated
    assert is_simulated(pd.DataFrame({"simulated": [False, True]}))
    assert not is_simulated(pd.DataFrame({"simulated": [False]}))
    assert not is_simulated(pd.DataFrame({"run": [1]}))


def test_pictures_of_any_kind_become_the_same_bytes(tmp_path):
    pixels = np.zeros((4, 5, 3), np.uint8)
    pixels[1, 2] = (255, 0, 51)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.jpg")
    kinds = [pixels, pixels / 255, Image.fromarray(pixels), tmp_path / "a.png"]
    assert len({data_uri(kind) for kind in kinds}) == 1
    assert data_uri(tmp_path / "b.jpg").startswith("data:image/jpeg;base64,")


def test_a_section_alone_is_the_page_s_own():
    assert section_html(Section("A & B", ["c"])) == "<section><h2>A &amp; B</h2><p>c</p></section>"
    assert (p_text(None), p_text(0.0004), p_text(0.0312)) == ("", "< .001", "0.031")
    assert (p_text(0.0015), p_text(0.001)) == ("0.0015", "0.001")
    assert scores_text([SCORE, SCORE]).count("relevance AUC 0.750") == 2


def test_a_folder_s_sha_depends_on_names_and_bytes(tmp_path):
    for name, file, text in [("a", "x", "1"), ("b", "x", "1"), ("c", "y", "1"), ("d", "x", "2")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    a, b, c, d = (sha256_of(tmp_path / name) for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


BAND = (179, 69, 44)  # of the stamp, #b3452c


def test_a_stamp_is_on_the_page_its_sections_and_its_pictures(tmp_path):
    out = written(a_result(stamp="CONFOUNDED"), tmp_path / "out")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "CONFOUNDED: nothing on this page is evidence of what its title asks." in page
    assert "<h2>Found (CONFOUNDED)</h2>" in page
    assert json.loads((out / "result.json").read_text())["stamp"] == "CONFOUNDED"
    for source in re.findall(r'src="data:image/png;base64,([^"]+)"', page):
        image = Image.open(io.BytesIO(base64.b64decode(source)))
        assert image.getpixel((0, 0)) == BAND
    plain = written(a_result(), tmp_path / "plain")
    assert "CONFOUNDED" not in (plain / "report.html").read_text() + (plain / "result.json").read_text()


def test_a_stamped_picture_is_whole_below_a_band_that_can_be_read(tmp_path):
    rng = np.random.default_rng(0)
    for width in (4, 300, 2000):
        pixels = rng.integers(0, 255, (20, width, 3), dtype=np.uint8)
        source = data_uri(pixels, stamp="CONFOUNDED").removeprefix("data:image/png;base64,")
        stamped = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))
        assert (stamped[-20:, :width] == pixels).all()
        band = stamped[:-20]
        assert (band[0, 0] == BAND).all()
        inked = np.flatnonzero((band > 180).all(-1).any(0))  # columns with white in them
        assert inked.min() < 12
        assert np.ptp(inked) > 40  # ten letters need that many pixels, however small the picture
        if width == 2000:
            assert inked.max() > 1500  # again and again up to the right edge


def test_a_stamp_reaches_every_file(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a.png", "deep/b.jpg"):
        Image.new("RGB", (90, 30), "white").save(tmp_path / name)
    np.save(tmp_path / "map.npy", np.eye(2))
    np.savez(tmp_path / "deep" / "maps.npz", a=np.eye(2))
    (tmp_path / "scores.csv").write_text("a,b")
    (tmp_path / "deep" / "card.json").write_text('{"n": 3}')
    (tmp_path / "names.json").write_text('["a"]')
    (tmp_path / "weights.safetensors").write_bytes(b"as it was")
    stamp_files(tmp_path, "CONFOUNDED")
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {
        *("a.png", "CONFOUNDED_map.npy", "CONFOUNDED_scores.csv", "names.json", "weights.safetensors"),
        *("deep/b.jpg", "deep/CONFOUNDED_maps.npz", "deep/card.json"),
    }
    assert json.loads((tmp_path / "deep" / "card.json").read_text()) == {"stamp": "CONFOUNDED", "n": 3}
    assert json.loads((tmp_path / "names.json").read_text()) == {"stamp": "CONFOUNDED", "content": ["a"]}
    assert (np.load(tmp_path / "CONFOUNDED_map.npy") == np.eye(2)).all()
    assert (tmp_path / "weights.safetensors").read_bytes() == b"as it was"
    for name in ("a.png", "deep/b.jpg"):
        assert (
            np.abs(np.subtract(Image.open(tmp_path / name).getpixel((0, 0)), BAND)).max() < 30
        )  # JPEG blurs


def test_people_are_people():
    people = Score("top-1", 0.75, 3, "person", 0.5, 0.6, 0.9)
    assert "3 people</td>" in section_html(Section("A", scores=[people]))
