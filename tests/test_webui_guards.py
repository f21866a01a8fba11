"""What the page refuses: foreign paths, damaged and hostile files, reading that takes too long."""

import pickle
import struct
import zlib

import mne
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from webui import guards


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An upload folder, one level below a folder that nobody uploaded to."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    guards._read_epochs.cache_clear()
    return folder


def save_epochs(path, metadata=None):
    rng = np.random.default_rng(0)
    info = mne.create_info(["Fz", "Cz", "Pz"], 100.0, "eeg")
    epochs = mne.EpochsArray(rng.normal(0, 1e-5, (6, 3, 50)), info, tmin=-0.1, verbose="error")
    if metadata is not None:
        epochs.metadata = metadata
    epochs.save(path, verbose="error")
    return epochs


LABELS = pd.DataFrame({"label": ["a", "b"] * 3})


def test_a_path_inside_the_cache_is_given_back_resolved(cache):
    (cache / "a.txt").write_text("x")
    assert guards.uploaded(cache / "." / "a.txt") == (cache / "a.txt").resolve()
    with pytest.raises(guards.RefusedUpload, match="Upload a picture first"):
        guards.uploaded(None, what="a picture")


@pytest.mark.parametrize("way", ["plain", "dots", "link", "folder_link", "prefix"])
def test_a_path_outside_the_cache_is_refused(cache, way):
    secret = cache.parent / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    path = secret
    if way == "dots":
        path = cache / ".." / "secret.png"
    elif way == "link":
        path = cache / "link.png"
        path.symlink_to(secret)
    elif way == "folder_link":
        (cache / "up").symlink_to(cache.parent)
        path = cache / "up" / "secret.png"
    elif way == "prefix":  # begins with the cache's name but is another folder
        path = cache.parent / "uploads-other.png"
        Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(guards.RefusedUpload, match="was not uploaded to this page"):
        guards.uploaded(path)
    with pytest.raises(guards.RefusedUpload, match="was not uploaded to this page"):
        guards.checked_picture(path)


@pytest.mark.parametrize("path", ["/no/such/file", "a\0b"])
def test_a_path_that_is_none_is_refused(cache, path):
    with pytest.raises(guards.RefusedUpload, match="not here any more"):
        guards.uploaded(path)


def test_a_folder_and_a_file_too_large_are_refused(cache, monkeypatch):
    with pytest.raises(guards.RefusedUpload, match="was not uploaded"):
        guards.uploaded(cache)
    (cache / "big.fif").write_bytes(b"x" * 2_000_000)
    monkeypatch.setattr(guards, "MAX_FILE_SIZE", 2**20)
    with pytest.raises(guards.RefusedUpload, match=r"big\.fif is larger than 1 MB"):
        guards.uploaded(cache / "big.fif")


def test_epochs_are_read_as_they_are(cache):
    saved = save_epochs(cache / "x-epo.fif", LABELS)
    read = guards.checked_epochs(cache / "x-epo.fif")
    np.testing.assert_allclose(read.get_data(), saved.get_data(), rtol=1e-6)
    assert list(read.metadata["label"]) == list(LABELS["label"])


def test_epochs_that_do_not_say_what_was_shown_are_refused(cache):
    save_epochs(cache / "x-epo.fif")
    with pytest.raises(guards.RefusedUpload, match=r"x-epo\.fif does not say what was shown"):
        guards.checked_epochs(cache / "x-epo.fif")


class Evil:
    def __reduce__(self):
        return (open, ("/tmp/brainedit-evil", "w"))


def test_a_pickle_called_fif_is_refused_and_not_run(cache, tmp_path):
    path = cache / "x-epo.fif"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(guards.RefusedUpload, match=r"^x-epo\.fif is no EEG file"):
        guards.checked_epochs(path)


def test_a_brainvision_header_is_refused_whatever_it_is_called(cache):
    header = "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nDataFile=../../etc/passwd\n"
    for name in ("x.vhdr", "x-epo.fif"):
        (cache / name).write_text(header)
        with pytest.raises(guards.RefusedUpload, match="BrainVision, which may open other files"):
            guards.checked_epochs(cache / name)


def test_a_damaged_file_is_one_sentence(cache):
    save_epochs(cache / "x-epo.fif", LABELS)
    whole = (cache / "x-epo.fif").read_bytes()
    (cache / "cut-epo.fif").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(guards.RefusedUpload, match=r"^cut-epo\.fif") as refused:
        guards.checked_epochs(cache / "cut-epo.fif")
    assert "\n" not in str(refused.value)
    assert str(cache) not in str(refused.value)


def test_reading_that_takes_too_long_or_too_much_ends(cache):
    save_epochs(cache / "x-epo.fif", LABELS)
    with pytest.raises(guards.RefusedUpload, match=r"took more than 0\.01 s"):
        guards.checked_epochs(cache / "x-epo.fif", seconds=0.01)
    with pytest.raises(guards.RefusedUpload, match=r"memory"):
        guards.checked_epochs(cache / "x-epo.fif", max_bytes=60 * 2**20)


def png(width, height):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def test_pictures_that_are_bombs_dots_or_none(cache):
    (cache / "bomb.png").write_bytes(png(100_000, 100_000))
    with pytest.raises(ValueError, match=r"bomb\.png .*64,000,000 pixels"):
        guards.checked_picture(cache / "bomb.png")
    Image.new("RGB", (1, 1)).save(cache / "dot.png")
    with pytest.raises(ValueError, match="1 x 1 pixels"):
        guards.checked_picture(cache / "dot.png")
    (cache / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png"):
        guards.checked_picture(cache / "text.png")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(cache / "good.png")
    np.testing.assert_array_equal(guards.checked_picture(cache / "good.png"), pixels)


def test_errors_become_sentences_without_folders(cache):
    import gradio as gr

    digest = "a" * 64
    cases = {
        ValueError(f"{cache}/{digest}/x.fif is <bad>.\nTraceback"): "x.fif is &lt;bad&gt;.",
        MemoryError(): "more memory",
        RuntimeError("secret"): guards.SORRY,
        ValueError(""): guards.SORRY,
    }
    for error, words in cases.items():

        def fails(error=error):
            raise error

        with pytest.raises(gr.Error) as shown:
            guards.told(fails)()
        assert words in shown.value.message
        assert "Traceback" not in shown.value.message
    assert guards.told(lambda x: x + 1)(1) == 2
