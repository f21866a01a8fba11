"""Inversion: planted truth, the sphere, the noise maps, the measures, the encoder, and what is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import nn

from brainedit.datasets.latents import read_latents
from brainedit.encoders import perceptual
from brainedit.encoders.perceptual import FeatureDistance, make_distance
from brainedit.generators.load import save_generator
from brainedit.generators.pggan import PGGAN
from brainedit.generators.prior import LatentPrior
from brainedit.generators.stylegan2 import StyleGAN2
from brainedit.inversion import invert, noise_penalty, psnr, ssim
from brainedit.inversion_encoder import (
    InversionEncoder,
    encode,
    evaluate_encoder,
    load_encoder,
    train_encoder,
)
from brainedit.jobs.invert import invert_folder


class Pixels(nn.Module):
    """A distance that costs nothing, with the interface of `FeatureDistance`."""

    def prepare(self, images):
        return images

    def forward(self, images, prepared):
        return (images - prepared).square().mean((1, 2, 3))


QUICK = {"perceptual": Pixels(), "progress": False}


def small(**settings):
    kwargs = {"z_dim": 8, "w_dim": 8, "img_resolution": 16, "mapping_kwargs": {"num_layers": 2}, **settings}
    generator = StyleGAN2(synthesis_kwargs={"channel_base": 128, "channel_max": 8}, **kwargs)
    return generator.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def stylegan2():
    return small(seed=1)


@pytest.fixture(scope="module")
def planted(stylegan2):
    w = stylegan2.sample(3, space="w", seed=11)
    return w, stylegan2.synthesize(w, space="w")


@pytest.mark.parametrize("space", ["w", "w+"])
def test_a_sample_is_found_again(stylegan2, planted, space):
    w, images = planted
    found = invert(stylegan2, images, space=space, steps=100, n_restarts=2, **QUICK)
    assert found.psnr.min() > 30
    assert found.latents.shape == (3, *stylegan2.latent_shape(space))
    torch.testing.assert_close(
        found.images, stylegan2.synthesize(found.latents, space=space), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(torch.as_tensor(found.psnr), psnr(found.images, images))
    assert found.warnings == [()] * 3
    if space == "w":  # there the picture decides the latent
        assert LatentPrior(stylegan2, "w").distance(found.latents - w + stylegan2.mean_w()).max() < 1


def test_z_stays_on_the_sphere():
    pggan = PGGAN(resolution=8, channels=(8, 8, 8), z_dim=8, seed=2).requires_grad_(False)
    truth = pggan.sample(2, seed=3)
    images = pggan.synthesize(truth, space="z")
    found = invert(pggan, images, space="z", steps=150, n_restarts=4, **QUICK)
    torch.testing.assert_close(found.latents.norm(dim=1), torch.full((2,), math.sqrt(8)))
    assert found.psnr.min() > 25
    assert torch.cosine_similarity(found.latents, truth).min() > 0.95
    assert found.warnings == [()] * 2
    assert np.isnan(found.ssim).all()  # 8 pixels hold no window of 11


def test_the_same_seed_gives_the_same_latents(stylegan2, planted):
    def run(seed):
        return invert(stylegan2, planted[1], steps=4, seed=seed, **QUICK).latents

    state = torch.get_rng_state()
    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_start_is_where_it_begins(stylegan2, planted):
    w, images = planted
    near = invert(stylegan2, images, steps=1, n_restarts=1, start=w, **QUICK)
    far = invert(stylegan2, images, steps=1, n_restarts=1, **QUICK)
    assert near.psnr.min() > far.psnr.max() + 5


def test_the_best_restart_is_kept(stylegan2, planted):
    images = planted[1]
    others = stylegan2.sample(3, space="w", seed=50)
    poor = invert(stylegan2, images, space="w", steps=5, n_restarts=1, start=others, **QUICK)
    good = invert(stylegan2, images, space="w", steps=5, n_restarts=8, start=others, **QUICK)
    assert good.psnr.mean() > poor.psnr.mean()


def test_weights_get_no_gradients(planted):
    generator = small(seed=1).requires_grad_(True)
    invert(generator, planted[1], steps=2, n_restarts=1, **QUICK)
    assert all(parameter.grad is None for parameter in generator.parameters())


def test_pictures_it_cannot_make_are_named(stylegan2, planted):
    checkers = (torch.arange(16)[:, None] + torch.arange(16)) % 2.0
    images = torch.cat([checkers.expand(1, 3, 16, 16), planted[1][:1]])
    found = invert(stylegan2, images, steps=60, n_restarts=1, **QUICK)
    sentences = " ".join(found.warnings[0])
    assert f"cannot make this picture: {found.psnr[0]:.1f} dB, below 18 dB" in sentences
    assert (
        f"feature distance {found.feature_distance[0]:.3f}, where two different samples of it are"
        in sentences
    )
    assert len(found.latents) == 2
    assert found.warnings[1] == ()


def test_latents_off_the_prior_are_named(stylegan2, planted):
    w, images = planted
    away = stylegan2.mean_w() + 40 * (w - stylegan2.mean_w())
    found = invert(stylegan2, images, steps=1, n_restarts=1, space="w", start=away, **QUICK)
    assert (found.off_prior > found.prior_range[1]).all()
    assert all("off the prior: distance" in " ".join(sentences) for sentences in found.warnings)


def test_other_sizes_are_scaled_and_said(stylegan2):
    found = invert(stylegan2, torch.rand(3, 20, 30), steps=1, n_restarts=1, **QUICK)
    assert found.images.shape == (1, 3, 16, 16)
    assert "scaled from 20 x 30 to 16 x 16" in " ".join(found.warnings[0])


def test_labels_choose_the_prior():
    generator = small(c_dim=3, seed=4)
    images = generator.synthesize(generator.sample(2, seed=5), space="z", labels=1)
    for space in ("z", "w+"):
        found = invert(generator, images, space=space, labels=1, steps=2, **QUICK)
        assert found.latents.shape[0] == 2
    with pytest.raises(ValueError, match=r"needs labels \(2, 3\); got none"):
        invert(generator, images, steps=2, **QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.rand(2, 1, 16, 16)}, r"got \(2, 1, 16, 16\)"),
        ({"image": torch.rand(0, 3, 16, 16)}, r"got \(0, 3, 16, 16\)"),
        ({"image": torch.full((3, 16, 16), float("nan"))}, "picture 0 goes from nan"),
        ({"image": torch.rand(3, 16, 16) + 1}, "in 0 to 1; picture 0 goes from 1"),
        ({"image": torch.zeros(3, 16, 16, dtype=torch.uint8)}, "got torch.uint8"),
        ({"space": "v"}, "no space 'v'"),
        ({"steps": 0}, "steps must be 1 or more; got 0"),
        ({"n_restarts": 0}, "n_restarts must be 1 or more; got 0"),
        ({"batch_size": 0}, "batch_size must be 1 or more; got 0"),
        ({"start": torch.zeros(2, 8)}, "one start for each of 1 pictures; got 2"),
        ({"start": torch.zeros(1, 7)}, r"got \(1, 7\)"),
        ({"perceptual": "vgg"}, "Unknown perceptual distance 'vgg'"),
    ],
)
def test_what_does_not_fit_is_refused(stylegan2, change, message):
    settings = {"image": torch.rand(3, 16, 16), "steps": 1, "n_restarts": 1, **QUICK, **change}
    with pytest.raises(ValueError, match=message):
        invert(stylegan2, settings.pop("image"), **settings)
    with pytest.raises(ValueError, match=r"pggan has no space 'w\+'"):
        invert(PGGAN(resolution=8, channels=(8, 8, 8), z_dim=8), torch.rand(3, 8, 8))


# the prior


@pytest.mark.parametrize("space", ["z", "w", "w+"])
def test_coordinates_have_unit_variance(stylegan2, space):
    prior = LatentPrior(stylegan2, space)
    latents = stylegan2.sample(5000, space=space, seed=9)
    u = prior.coordinates(latents)
    assert prior.on_sphere == (space == "z")
    if prior.on_sphere:
        torch.testing.assert_close(prior.latents(u), F.normalize(latents) * math.sqrt(8))
    else:
        torch.testing.assert_close(prior.latents(u), latents, atol=1e-4, rtol=1e-4)
        assert u.flatten(1).std(0).sub(1).abs().max() < 0.15
    inside = (prior.distance(latents) <= prior.range[1]) & (prior.distance(latents) >= prior.range[0])
    assert inside.mean() > 0.995


def test_distance_is_that_of_mahalanobis(stylegan2):
    w = stylegan2.sample(2000, space="w", seed=0).double().numpy()  # the samples that the prior draws
    inverse = np.linalg.inv(np.cov(w.T))
    off = w[:5] - w.mean(0)
    wanted = np.sqrt(np.einsum("ij,jk,ik->i", off, inverse, off))
    prior = LatentPrior(stylegan2, "w+")
    latents = torch.from_numpy(w[:5]).float()[:, None].repeat(1, stylegan2.n_layers, 1)
    np.testing.assert_allclose(prior.distance(latents), wanted, rtol=1e-3)


# the noise maps


def test_white_noise_costs_little_and_smooth_noise_much():
    white = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    smooth = torch.ones(2, 1, 64, 64)
    # neighbours of equal sign: 1 in both directions; halved with twice the size, 4, 16, 64 for their products
    assert noise_penalty([smooth]).tolist() == pytest.approx([2 * (1 + 4**2 + 16**2 + 64**2)] * 2)
    checkers = ((-1.0) ** (torch.arange(64)[:, None] + torch.arange(64)))[None, None]
    assert noise_penalty([checkers]).item() == pytest.approx(2.0)  # its halvings are 0
    assert noise_penalty([white]).max() < 0.1


def test_noise_maps_are_fitted_and_stay_noise(stylegan2, planted):
    images = planted[1]
    plain, fitted = (
        invert(stylegan2, images, steps=30, n_restarts=1, optimise_noise=flag, **QUICK)
        for flag in (False, True)
    )
    assert plain.noise is None
    assert [tuple(m.shape) for m in fitted.noise] == [(3, 1, s, s) for s in stylegan2.noise_sizes()]
    for scale in fitted.noise:
        assert scale.mean((1, 2, 3)).abs().max() < 1e-5
        torch.testing.assert_close(scale.square().mean((1, 2, 3)), torch.ones(3))


# the measures


def test_psnr_follows_its_definition():
    images = torch.zeros(2, 3, 4, 4)
    wanted = torch.stack([images[0] + 0.1, images[0]])
    assert psnr(images, wanted).tolist() == [pytest.approx(20.0), math.inf]


def test_ssim_agrees_with_scipy_windows():
    """The definition, its windows taken from scipy's Gaussian filter."""
    rng = np.random.default_rng(0)
    a = rng.random((3, 24, 20))
    b = np.clip(a + 0.2 * rng.standard_normal(a.shape), 0, 1)

    def mean(x):
        return np.stack([gaussian_filter(c, 1.5, truncate=5 / 1.5)[5:-5, 5:-5] for c in x])

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    wanted = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    found = ssim(torch.from_numpy(a)[None].float(), torch.from_numpy(b)[None].float())
    assert found.shape == (1,)
    assert found.item() == pytest.approx(wanted.mean(), abs=1e-4)


def test_ssim_of_equal_and_of_constant_pictures():
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(ssim(images, images), torch.ones(2))
    a, b = torch.full((1, 3, 16, 16), 0.2), torch.full((1, 3, 16, 16), 0.6)
    assert ssim(a, b).item() == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), rel=1e-3)
    with pytest.raises(ValueError, match=r"11 x 11 pixels or more; got \(10, 16\)"):
        ssim(images[..., :10, :], images[..., :10, :])


def test_feature_distance_grows_with_the_change():
    distance = FeatureDistance(weights="random")
    images = torch.rand(2, 3, 32, 32)
    prepared = distance.prepare(images)
    torch.testing.assert_close(distance(images, prepared), torch.zeros(2))
    noise = torch.randn_like(images)
    steps = [distance(images + s * noise, prepared).mean().item() for s in (0.05, 0.2, 0.8)]
    assert 0 < steps[0] < steps[1] < steps[2] <= 4
    assert distance.prepare(torch.rand(1, 3, 300, 300))[0].shape[-1] == 112  # scaled to 224, halved once


def test_a_missing_lpips_is_one_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lpips", None)
    with pytest.raises(ValueError, match="needs the library lpips: run `pip install lpips`"):
        make_distance("lpips")
    assert set(perceptual.DISTANCES) == {"efficientnet_lite0", "lpips"}


# the encoder


@pytest.fixture(scope="module")
def trained(stylegan2):
    return train_encoder(stylegan2, space="w", n_pictures=3 * 1024, seed=1, progress=False)


def test_the_encoder_finds_new_samples(stylegan2, trained):
    scores = evaluate_encoder(trained, stylegan2, n=100)
    assert scores.r2 > 0.5
    assert scores.psnr > scores.psnr_of_mean + 2


def test_an_untrained_encoder_finds_nothing(stylegan2):
    encoder = InversionEncoder(space="w", shape=(8,), input_size=16, generator_sha256=stylegan2.sha256)
    assert evaluate_encoder(encoder, stylegan2, n=100).r2 < 0.2


def test_the_encoder_starts_an_inversion(stylegan2, trained, planted):
    images = planted[1]
    first = encode(trained, images)
    assert first.shape == (3, 8)
    begun = invert(stylegan2, images, steps=1, n_restarts=1, start=first, **QUICK)
    assert begun.psnr.mean() > invert(stylegan2, images, steps=1, n_restarts=1, **QUICK).psnr.mean() + 2


@pytest.mark.parametrize("space", ["z", "w+"])
def test_encoders_of_other_spaces(stylegan2, space):
    pictures = torch.rand(4, 3, 20, 20)
    real = {"pictures": pictures} if space == "w+" else {}
    encoder = train_encoder(stylegan2, space=space, n_pictures=8, batch_size=4, progress=False, **real)
    assert encode(encoder, pictures).shape == (4, *stylegan2.latent_shape(space))


def test_a_saved_encoder_comes_back(tmp_path, stylegan2, trained, planted):
    trained.save(tmp_path / "encoder")
    again = load_encoder(tmp_path / "encoder", generator=stylegan2)
    assert torch.equal(encode(again, planted[1]), encode(trained, planted[1]))
    with pytest.raises(ValueError, match=f"another generator \\(sha256 {stylegan2.sha256[:12]}"):
        load_encoder(tmp_path / "encoder", generator=small(seed=2))
    (tmp_path / "encoder" / "encoder.json").write_text(json.dumps({"format": "else"}))
    with pytest.raises(ValueError, match="its format is 'else'"):
        load_encoder(tmp_path / "encoder")
    (tmp_path / "encoder" / "encoder.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"encoder\.safetensors does not exist"):
        load_encoder(tmp_path / "encoder")


def test_encoder_settings_that_cannot_be_met(stylegan2):
    with pytest.raises(ValueError, match="got 0 pictures, batches of 16"):
        train_encoder(stylegan2, n_pictures=0)
    with pytest.raises(ValueError, match="input_size is a power of 2 from 8 up; got 48"):
        InversionEncoder(space="w", shape=(8,), input_size=48)
    conditional = small(c_dim=3)
    with pytest.raises(ValueError, match="needs the class of each real picture in 'z'"):
        train_encoder(conditional, space="z", pictures=torch.rand(2, 3, 16, 16))


# the job


@pytest.fixture
def folder(tmp_path, stylegan2, planted):
    from brainedit.editing import grid_image

    save_generator(stylegan2, tmp_path / "generator")
    for i, image in enumerate(planted[1]):
        path = tmp_path / "pictures" / f"set{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grid_image(image[None], columns=1, padding=0).save(path)
    grid_image(torch.rand(1, 3, 16, 24), columns=1, padding=0).save(tmp_path / "pictures" / "wide.png")
    return tmp_path


def test_a_folder_becomes_latents_by_name(folder, stylegan2, trained, monkeypatch):
    monkeypatch.setitem(perceptual.DISTANCES, "pixels", Pixels)
    trained.save(folder / "encoder")
    out = invert_folder(
        folder / "pictures",
        folder / "out",
        generator=str(folder / "generator"),
        encoder=folder / "encoder",
        perceptual="pixels",
        steps=60,
        n_restarts=1,
    )
    record = json.loads((out / "result.json").read_text())
    names = ["set0/0.png", "set0/2.png", "set1/1.png", "wide.png"]
    assert list(record["figures"]["pictures"]) == names
    assert (
        record["figures"]["pictures"]["set1/1.png"]["psnr"]
        > record["figures"]["pictures"]["wide.png"]["psnr"]
    )
    assert any(text.startswith("wide.png and 0 more pictures are not square") for text in record["warnings"])
    table = read_latents(out / "latents.safetensors")
    assert list(table.index) == names
    latents = torch.tensor(table.to_numpy(np.float32)).reshape(4, *stylegan2.latent_shape("w+"))
    made = stylegan2.synthesize(latents, space="w+")
    assert record["figures"]["generator_sha256"] == stylegan2.sha256
    assert made.shape == (4, 3, 16, 16)
    assert len(list(Path(out).glob("picture_*.png"))) == 4
    assert "Before and after" in (out / "report.html").read_text()


def test_folders_without_pictures_are_refused(folder):
    generator = str(folder / "generator")
    with pytest.raises(FileNotFoundError, match=r"no folder of pictures .*nowhere"):
        invert_folder(folder / "nowhere", folder / "out", generator=generator)
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no pictures"):
        invert_folder(folder / "empty", folder / "out", generator=generator)
