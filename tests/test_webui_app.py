"""The page: each tab's functions on a tiny demo, the app over HTTP, its limits and its sentences."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import webui
from brainedit.datasets.latents import write_latents
from brainedit.datasets.paired import PairedDataset
from brainedit.directions import Direction
from brainedit.generators.load import save_generator
from brainedit.generators.stylegan2 import StyleGAN2
from brainedit.jobs.directions import find_direction
from brainedit.jobs.map_trials import MEMORISED
from brainedit.joint_training import train_joint
from brainedit.relevance import PRESETS
from brainedit.simulate.viewing import simulate_oddball, simulate_passive
from webui.app import launch_settings
from webui.tabs import directions, edit, map_pages, read_demo, saliency

SMALL = {"channel_base": 128, "channel_max": 16}


def make_demo(root: Path, *, n_pictures: int = 12, n_repeats: int = 4, n_faces: int = 60) -> Path:
    """A demo folder in the agreed shape, as small as it can be."""
    channels = ("Fz", "Cz", "Pz", "P3", "P4", "Oz", "O1", "O2")
    quick = {"channels": channels, "sfreq": 100.0}
    view = {"n_repeats": n_repeats, "picture_size": 64, "snr": 0.5, "n_kinds": 6, **quick}
    trained = simulate_passive(n_pictures=n_pictures, seed=1, **view)
    metadata = trained.epochs.metadata
    trained.epochs.metadata = metadata.assign(stimulus="train/" + metadata["stimulus"])
    dataset = PairedDataset(trained.epochs, {f"train/{k}": v for k, v in trained.images.items()})
    train_joint(dataset, n_dims=16, n_epochs=8, progress=False).save(root / "model")
    shown = simulate_passive(n_pictures=6, seed=2, **view)
    (root / "viewing" / "pictures").mkdir(parents=True)
    for name, image in shown.images.items():
        (root / "viewing" / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / "viewing" / "pictures" / name, format="PNG")
    shown.epochs.save(root / "viewing" / "epochs-epo.fif", verbose="error")
    _faces(root, n_faces, quick)
    return root


def _faces(root: Path, n: int, quick: dict) -> None:
    generator = StyleGAN2(z_dim=8, w_dim=8, img_resolution=32, synthesis_kwargs=SMALL)
    save_generator(generator, root / "generator")
    z = generator.sample(n, seed=5).numpy()
    names = [f"face_{i:03d}.png" for i in range(n)]
    smile = z[:, 0] > 0
    trials = pd.DataFrame({"stimulus": names, "label": np.where(smile, "smile", "other"), "target": smile})
    trials = pd.concat([trials.assign(run=run, subject="s") for run in range(1, 5)], ignore_index=True)
    epochs = simulate_oddball(trials, amplitude_uv=15.0, **quick).epochs
    (root / "faces").mkdir()
    epochs.save(root / "faces" / "epochs-epo.fif", verbose="error")
    latents = pd.DataFrame(z, index=names)
    write_latents(latents, root / "faces" / "latents.safetensors", space="z")
    found = find_direction(
        epochs, latents, generator, target="label == 'smile'", name="smile", n_permutations=50
    )
    (root / "directions").mkdir()
    found.direction.save(root / "directions" / "smile.safetensors")
    record = {"generator": "generator", "target": "label == 'smile'", "space": "z", "attribute": "smile"}
    (root / "demo.json").write_text(json.dumps(record))


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    return read_demo(make_demo(tmp_path_factory.mktemp("demo")))


@pytest.fixture(scope="module")
def page(demo, tmp_path_factory):
    """The page, served on a free port with a small limit for uploads; gives its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        blocks = webui.build(demo.root)
        settings = launch_settings() | {"max_file_size": 3_000_000}
        blocks.launch(server_name="127.0.0.1", prevent_thread_lock=True, **settings)
        yield blocks
        blocks.close()


COARSE = {"window": 112, "stride": 112, "n_controls": 5}


def test_a_saliency_map_shows_picture_map_control_and_says_simulated(demo):
    stimulus = saliency.stimulus_choices(demo.viewing)[0][1]
    pages = list(saliency.example_steps(demo, stimulus, **COARSE))
    assert all("Simulated EEG" in html and "Shuffled EEG" in html for html in pages)
    assert map_pages.REFINING in pages[0]
    assert pages[0].count("<img") == 3
    html = pages[-1]
    assert html.count("<img") == 5
    assert html.count("be-verdict") == 1
    assert "EEG-dependence D" in html
    assert "6 pictures and 6 responses" in html
    assert "p = " in html
    assert "memorised" not in html
    with pytest.raises(ValueError, match="has no stimulus 'nothing'"):
        saliency.example_html(demo, "nothing")
    with pytest.raises(ValueError, match="Choose the trials"):
        map_pages.map_html(demo.model, demo.viewing, demo.picture(stimulus))


def test_a_picture_that_trained_the_model_is_marked(demo):
    epochs = demo.viewing.copy()
    first = epochs.metadata["stimulus"].iloc[0]
    seen = demo.model.card["training"]["stimuli"][0]
    epochs.metadata = epochs.metadata.assign(stimulus=epochs.metadata["stimulus"].replace(first, seen))
    html = map_pages.map_html(demo.model, epochs, demo.picture(first), stimulus=seen, **COARSE)
    assert MEMORISED in html
    assert "EEG-dependence D" not in html  # no other picture came with it, and the page says what to do
    assert "There is no D: it needs 4 pictures" in html
    assert "or run the command “brainedit saliency”" in html


def test_an_upload_that_names_no_pictures_is_mapped_by_a_query(demo):
    epochs = demo.viewing.copy()
    names = epochs.metadata["stimulus"]
    epochs.metadata = pd.DataFrame({"label": (names == names.iloc[0]).map({True: "a", False: "b"})})
    trained = demo.model.card["training"]["stimuli"][0]
    settings = {"query": "label == 'a'", "name": Path(trained).name, "unread": ["x.png"], **COARSE}
    html = map_pages.map_html(demo.model, epochs, demo.picture(names.iloc[0]), **settings)
    assert MEMORISED in html
    assert map_pages.MADE_ON_SIMULATED in html
    assert "cannot be read: x.png" in html
    epochs.metadata = None
    with pytest.raises(ValueError, match="have no metadata"):
        map_pages.map_html(demo.model, epochs, demo.picture(names.iloc[0]), **settings)


def test_training_on_an_upload_holds_out_a_fifth(demo):
    files = sorted((demo.root / "viewing" / "pictures").rglob("*.png"))
    model, scores = saliency.train_upload(demo.viewing, files, n_epochs=2, n_dims=8, progress=False)
    assert len(model.card["training"]["stimuli"]) == 4  # of 6: the first of five parts has two
    assert scores
    with pytest.raises(ValueError, match=f"{files[-1].name}.* has no picture"):
        saliency.train_upload(demo.viewing, files[:-1])
    with pytest.raises(ValueError, match="Upload the pictures"):
        saliency.train_upload(demo.viewing, [])


def test_files_are_joined_by_name_and_never_by_position():
    names = ["a/one.png", "b/two (2).png", "c/three.png"]
    joined = saliency.join_pictures(names, ["/x/three.png", "/x/two2.png", "/x/other.png"])
    assert joined == {"c/three.png": Path("/x/three.png"), "b/two (2).png": Path("/x/two2.png")}
    with pytest.raises(ValueError, match=r"fits the stimuli a/one\.png and b/one\.png"):
        saliency.join_pictures(["a/one.png", "b/one.png"], ["one.png"])
    files = ["/x/face_1.png", "/x/faces_1.png", "/x/house-2.png"]
    assert saliency.join_labels(["face", "house"], files) == {
        "face": [Path("/x/face_1.png")],
        "house": [Path("/x/house-2.png")],
    }
    with pytest.raises(ValueError, match="begins with the label 'tree'"):
        saliency.join_labels(["face", "tree"], files)


def test_stimuli_are_listed_with_their_number_of_trials(demo):
    assert saliency.stimulus_choices(demo.viewing)[0] == (
        "seed2_0000.png · 4 trials",
        "scenes/seed2_0000.png",
    )
    unnamed = demo.viewing.copy()
    unnamed.metadata = unnamed.metadata.drop(columns="stimulus")
    assert saliency.stimulus_choices(unnamed) == []


def test_a_direction_with_its_page(demo):
    generator = demo.maker(demo.default_maker)
    settings = {"target": demo.target, "space": "z", "name": "smile"}
    found = directions.find(demo.faces, demo.latents, generator, **settings)
    assert found.direction.vector[0] > 0.8  # the planted attribute is the sign of the first latent
    html = directions.found_html(found, demo.faces, generator, target=demo.target)
    for words in ("relevance AUC", "95 % interval", "split-half", "shuffled EEG", "Simulated EEG"):
        assert words in html
    for words in (
        "cosine to the direction of infinitely many",
        "looks a better direction needs",
        "same face",
    ):
        assert words in html
    with pytest.raises(ValueError, match="Say which trials are targets"):
        directions.find(demo.faces, demo.latents, generator, target=" ", space="z")
    with pytest.raises(ValueError, match="is true for 0 of 240"):
        directions.find(demo.faces, demo.latents, generator, target="label == 'x'", space="z")


CURVE = {"n": [100.0, 400.0], "cosine": [0.4, 0.8], "low": [0.2, 0.6], "high": [0.6, 0.9]}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        # straight in log n: 100 * 4 ** (1 / 4), 100 and 100 * 4 ** (3 / 4)
        ({"predicted_cosine": 0.4}, "These are 110 pictures; a cosine of 0.5 takes about 140 (100 to 280)."),
        ({"predicted_cosine": 0.6}, "These are 110 pictures; a cosine of 0.7 takes about 280 (160 or more)."),
        ({"predicted_cosine": 0.85}, "A cosine of 0.9 is out of reach of such pictures."),
        ({"predicted_cosine": 0.95}, ""),
        ({"p": 0.3}, ""),
    ],
)
def test_how_many_pictures_the_next_cosine_takes(demo, changed, words):
    measured = demo.directions["smile"].reliability | {"n": 110, "learning_curve": CURVE, "p": 0.001}
    sentence = directions.looks_sentence(measured | changed)
    assert sentence.strip() == words


def test_an_edit_by_0_is_the_picture_and_its_dose_is_the_strength(demo):
    generator, move = demo.maker(demo.default_maker), demo.directions["smile"]
    same = edit.edited(generator, move, seed=3, strength=0.0)
    np.testing.assert_array_equal(same.before, same.after)
    moved = edit.edited(generator, move, seed=3, strength=2.0)
    np.testing.assert_array_equal(moved.before, same.before)
    np.testing.assert_array_equal(moved.after, moved.strip[edit.STRIP.index(2.0)])
    assert moved.mahalanobis == pytest.approx(2.0 * move.scale, rel=1e-6)  # the prior of z is N(0, 1)
    pictures, words = edit.edited_html(generator, move, seed=3, strength=2.0)
    assert pictures.count("<img") == 2
    assert "smile" in words
    with pytest.raises(ValueError, match="from -4 to 4; got 5"):
        edit.edited(generator, move, seed=3, strength=5)
    with pytest.raises(ValueError, match=r"whole number.*got 1\.5"):
        edit.edited(generator, move, seed=1.5, strength=1)


def test_settings_reach_the_search_and_windows_only_where_they_count(demo, monkeypatch):
    asked = []
    monkeypatch.setattr(directions, "find", lambda *_, **settings: asked.append(settings) or 1 / 0)
    do = directions.DirectionsHandlers(demo)
    given = ["Example", None, None, demo.default_maker, demo.target, " ", "smile", "z", "ridge", "run"]
    for classifier, windows, people in (("lda", "davis2022", "reliability"), ("xdawn", "davis2022", "equal")):
        with pytest.raises(ZeroDivisionError):
            do.find(*given, classifier, windows, people, {})
    first, second = asked
    assert (first["classifier"], first["preset"], first["weights"]) == ("lda", "davis2022", "reliability")
    assert (second["classifier"], second["preset"], second["weights"]) == ("xdawn", None, None)
    assert first["task"] is None
    assert {value for _, value in directions.WINDOWS} == {"default", *PRESETS}


def test_epochs_of_several_people_are_limited(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    file = tmp_path / "a-epo.fif"
    file.write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match="Upload an epochs file first"):
        directions.uploaded_people([])
    with pytest.raises(ValueError, match=r"At most 12 files .*; 13 came"):
        directions.uploaded_people([file] * 13)
    monkeypatch.setattr(directions, "MOST_BYTES", 1500)
    with pytest.raises(ValueError, match="larger than 0 MB together"):
        directions.uploaded_people([file] * 2)


def along(*axes, name="x", space="z"):
    """A direction along the sum of some of the 8 axes."""
    vector = np.zeros(8)
    vector[list(axes)] = 1
    return Direction(vector / np.linalg.norm(vector), space, 0.7, name=name)


def test_what_is_locked_stays_and_z_turns_on_its_sphere(demo):
    generator = demo.maker(demo.default_maker)
    free = edit.edited(generator, along(0, 1), seed=3, strength=2.0)
    assert free.kept == pytest.approx(1)
    assert free.degrees == pytest.approx(np.degrees(2 * 0.7 / np.sqrt(8)), rel=1e-5)  # turned, not shifted
    held = edit.edited(generator, along(0, 1), seed=3, strength=2.0, locks=[along(0)])
    assert held.kept == pytest.approx(np.sqrt(0.5))
    assert held.mahalanobis == pytest.approx(1.4)
    only = edit.edited(generator, along(1), seed=3, strength=2.0, locks=[along(0)])
    np.testing.assert_array_equal(held.after, only.after)
    words = edit.edited_html(generator, along(0, 1), seed=3, strength=2.0, locks=[along(0, name="old")])[1]
    assert "&#x27;old&#x27; stays as it was; the step has cosine 0.71" in words
    with pytest.raises(ValueError, match="Nothing of direction 'x' is left"):
        edit.edited(generator, along(0), seed=3, strength=2.0, locks=[along(0)])


def test_only_directions_of_one_generator_and_space_can_be_locked(demo):
    do, own = edit.EditHandlers(demo), demo.default_maker
    made = {"w": (along(0, space="w"), own), "z": (along(0), own), "other": (along(0), "faces")}
    assert do.lockable("smile", ["z", "w"], made)["choices"] == ["z"]
    assert do.lockable("smile", ["z", "w"], made)["value"] == ["z"]
    assert do.lockable("w", ["z"], made) == {"choices": [], "value": [], "__type__": "update"}
    direction, held, generator = do.chosen("smile", ["z"], made, 1.0)
    assert (direction.name, held, generator) == ("smile", [made["z"][0]], demo.maker(own))
    for name, locks in (("nothing", []), (None, []), ("smile", ["nothing"])):
        with pytest.raises(ValueError, match="no such direction"):
            do.chosen(name, locks, made, 1.0)
    with pytest.raises(ValueError, match="got nan"):
        do.chosen("smile", [], made, float("nan"))


def test_a_scan_says_where_a_face_becomes_another(demo, monkeypatch):
    monkeypatch.setattr(edit, "SCANNED", (-1.0, 0.0, 1.0))
    monkeypatch.setattr(edit, "N_SCANNED", 2)
    html = edit.scanned_html(demo.maker(demo.default_maker), along(0, 1), locks=[along(0)])
    assert "Identity breaks where" in html
    assert html.count("<img") == 1


def test_a_folder_that_is_no_demo_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no demo in"):
        webui.build(tmp_path)
    (tmp_path / "demo.json").write_text('{"generator": "dcgan-faces"}')
    with pytest.raises(ValueError, match=r"damaged .*'target'"):
        webui.build(tmp_path)
    with pytest.raises(ValueError, match="got 70000"):
        webui.launch(port=70000, demo=tmp_path)


def test_the_page_answers_on_this_machine_alone_and_fetches_nothing(page):
    answer = httpx.get(page.local_url, timeout=20)
    assert answer.status_code == 200
    assert page.local_url.startswith("http://127.0.0.1:")
    assert "googleapis" not in answer.text
    theme = httpx.get(page.local_url + "theme.css", timeout=20).text
    assert "@import" not in theme
    assert not re.findall(r"url\((?!['\"]?(?:data:|static/))", theme)
    assert page.share_url is None
    assert not page.analytics_enabled


def test_a_pinned_port_that_is_taken_is_one_sentence(page, demo):
    port = int(page.local_url.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(ValueError, match=f"Port {port} cannot be used"):
        webui.launch(port=port, demo=demo.root)


def test_an_upload_that_is_too_large_is_refused(page):
    url = page.local_url + "gradio_api/upload"
    big = httpx.post(url, files={"files": ("big.fif", b"x" * 3_500_000)}, timeout=20)
    assert big.status_code == 413
    assert httpx.post(url, files={"files": ("small.fif", b"x")}, timeout=20).status_code == 200


def call(page, name, data, event=None):
    """POST to an event as any program can; gives the kind of answer and what it holds."""
    index = next(f._id for f in page.fns.values() if f.fn is not None and f.fn.__name__ == name)
    body = {"data": data, "fn_index": index, "session_hash": "test", "event_data": event}
    joined = httpx.post(page.local_url + "gradio_api/queue/join", json=body, timeout=20)
    joined.raise_for_status()
    with httpx.stream(
        "GET", page.local_url + "gradio_api/queue/data?session_hash=test", timeout=60
    ) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
            if message.get("msg") == "process_completed":
                return message["success"], message["output"]
    raise AssertionError("the page gave no answer")


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}])
def test_a_file_of_the_server_is_not_opened_for_a_request(page, demo, meta):
    outside = {"path": str(demo.picture("scenes/seed2_0000.png")), **meta}
    success, output = call(page, "pictures", [[outside]])
    assert not success
    assert "seed2_0000" not in json.dumps(output)


def test_an_upload_is_opened_for_a_request(page):
    url = page.local_url + "gradio_api/upload"
    path = httpx.post(url, files={"files": ("face.png", b"x")}, timeout=20).json()[0]
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    success, output = call(page, "pictures", [[file]])
    assert success
    assert output["data"][0]["value"] == "face.png"
    given = ["Your files", file, [file], saliency.DEMO_MODEL, "face.png", None, ""]
    success, output = call(page, "draw", [*given, next(iter(saliency.WINDOWS)), None])
    assert not success
    assert "of these formats" in output["error"]  # a picture is no epochs file


def test_errors_are_sentences_and_never_a_stack_trace(page):
    given = [
        "Your files",
        None,
        None,
        saliency.DEMO_MODEL,
        None,
        None,
        "",
        next(iter(saliency.WINDOWS)),
        None,
    ]
    success, output = call(page, "draw", given)
    assert not success
    assert output["error"] == "Upload an epochs file first."


def test_an_edit_over_http(page):
    success, output = call(page, "moved", ["smile", 3, 1.0, [], None])
    assert success
    assert "After, +1 SD" in output["data"][0]
    success, output = call(page, "moved", ["smile", 3, 9.0, [], None])
    assert not success


def test_a_photograph_over_http(page, demo):
    url = page.local_url + "gradio_api/upload"
    picture = demo.picture("scenes/seed2_0000.png").read_bytes()
    path = httpx.post(url, files={"files": ("face.png", picture)}, timeout=20).json()[0]
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    success, output = call(page, "clicked", [file, "10, 20"], event={"index": [40, 21], "value": None})
    assert success
    assert output["data"] == ["10, 20, 40, 22"]
    success, output = call(page, "edit", [file, "10, 20", "smile", 1.0, [], "change", None, None])
    assert not success
    assert "Click both eyes first: 1 of 2 are marked" in output["error"]
    outside = {"path": str(demo.picture("scenes/seed2_0000.png")), "meta": {"_type": "gradio.FileData"}}
    for name, data in (
        ("marked", [outside, "", "smile", None]),
        ("edit", [outside, "1, 1, 30, 1", "smile", 1.0, [], "change", None, None]),
    ):
        success, output = call(page, name, data)
        assert not success
        assert "image" not in json.dumps(output)


def test_after_training_a_picture_that_was_held_out_is_chosen(demo):
    files = sorted((demo.root / "viewing" / "pictures").rglob("*.png"))
    model = SimpleNamespace(
        card={"training": {"stimuli": ["scenes/seed2_0000.png", "scenes/seed2_0002.png"]}}
    )
    chosen = saliency.SaliencyHandlers(demo)._unseen(model, files)
    assert chosen["value"] == "seed2_0001.png"
