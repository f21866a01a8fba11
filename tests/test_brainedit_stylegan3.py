"""StyleGAN3: parity with the reference's numbers, published layouts, equivariance, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from brainedit.generators import stylegan3
from brainedit.generators.stylegan3 import StyleGAN3

VECTORS = Path(__file__).parent / "vectors"
NAMES = ("sg3t", "sg3t_cond", "sg3r", "sg3r_cond")
T1024 = (
    "L0_36_512 L1_36_512 L2_52_512 L3_52_512 L4_84_512 L5_148_512 L6_148_512 L7_276_323 L8_276_203 "
    "L9_532_128 L10_1044_81 L11_1044_51 L12_1044_32 L13_1024_32 L14_1024_3"
)
T256 = (
    "L0_36_512 L1_36_512 L2_36_512 L3_52_512 L4_52_512 L5_84_512 L6_84_512 L7_148_512 L8_148_512 "
    "L9_148_362 L10_276_256 L11_276_181 L12_276_128 L13_256_128 L14_256_3"
)
R256 = (
    "L0_36_1024 L1_36_1024 L2_36_1024 L3_52_1024 L4_52_1024 L5_84_1024 L6_84_1024 L7_148_724 L8_148_512 "
    "L9_148_362 L10_276_256 L11_276_181 L12_276_128 L13_256_128 L14_256_3"
)
R_SETTINGS = {"conv_kernel": 1, "use_radial_filters": True}


def golden(name):
    """The generator with the reference's weights, and the reference's vectors."""
    kwargs = json.loads((VECTORS / f"{name}_kwargs.json").read_text())
    generator = StyleGAN3(**kwargs).requires_grad_(False)
    generator.load_state_dict(load_file(VECTORS / f"{name}_weights.safetensors"), strict=True)
    return generator, load_file(VECTORS / f"{name}_vectors.safetensors")


@pytest.fixture(scope="module")
def sg3t():
    return golden("sg3t")


def small(**settings):
    sizes = {"channel_base": 64, "channel_max": 6, "num_layers": 4, "margin_size": 4}
    kwargs = {"z_dim": 8, "w_dim": 5, "img_resolution": 16, **sizes, **settings}
    return StyleGAN3(**kwargs).requires_grad_(False)


def worst(found, wanted):
    return ((found - wanted).abs().max() / wanted.std()).item()


@pytest.mark.parametrize("name", NAMES)
def test_stylegan3_reproduces_the_reference(name):
    generator, vectors = golden(name)
    w = generator.map(vectors["in.z"], labels=vectors.get("in.c"))
    assert worst(generator.truncate(w, psi=1.0), vectors["out.w"]) < 1e-5
    assert worst(generator.truncate(w, psi=0.7), vectors["out.w_trunc0.7"]) < 1e-5
    assert worst(generator.truncate(w, psi=0.7, cutoff=4), vectors["out.w_trunc0.7_cutoff4"]) < 1e-5
    assert worst(generator.raw_images(vectors["out.w"], space="w+"), vectors["out.image"]) < 3e-5
    assert worst(generator.raw_images(vectors["in.w_plus"], space="w+"), vectors["out.image_w_plus"]) < 3e-5


@pytest.mark.parametrize("name", ["sg3t", "sg3r"])
def test_filters_are_designed_as_in_the_reference(name):
    kwargs = json.loads((VECTORS / f"{name}_kwargs.json").read_text())
    found, wanted = StyleGAN3(**kwargs).state_dict(), load_file(VECTORS / f"{name}_weights.safetensors")
    filters = [key for key in wanted if key.endswith("_filter")]
    assert len(filters) == 12
    for key in filters:
        torch.testing.assert_close(found[key], wanted[key], atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    ("names", "settings"),
    [
        (T1024, {"img_resolution": 1024}),
        (T256, {"img_resolution": 256}),
        (R256, {"img_resolution": 256, "channel_max": 1024, **R_SETTINGS}),
    ],
)
def test_layers_are_those_of_the_published_networks(names, settings):
    generator = StyleGAN3(z_dim=4, w_dim=4, **settings)
    assert " ".join(generator.synthesis) == f"input {names}"
    assert generator.n_layers == 16


def test_all_but_the_critical_layers_of_r_have_radial_filters():
    layers = list(small(use_radial_filters=True, num_layers=5).synthesis.values())[1:-1]
    assert [layer.down_filter.ndim for layer in layers] == [2, 2, 2, 1, 1]


def test_bands_are_those_of_the_published_1024_pixel_network():
    settings = stylegan3.SYNTHESIS_DEFAULTS
    signals = stylegan3.layer_signals(1024, settings)
    assert [signal.sampling_rate for signal in signals[1:10]] == [16, 32, 32, 64, 128, 128, 256, 256, 512]
    found = torch.tensor([[signals[i].cutoff, signals[i].half_width] for i in (1, 2, 10, 14)])
    published = [[3.1748, 4.8252], [5.03968, 10.9603], [203.187, 308.813], [512, 118.346]]
    torch.testing.assert_close(found, torch.tensor(published), rtol=1e-5, atol=0)


def test_spaces_agree_and_pictures_lie_in_0_to_1(sg3t):
    generator, vectors = sg3t
    w = generator.map(vectors["in.z"])
    w_plus = generator.truncate(w, psi=1.0)
    latents = {"z": vectors["in.z"], "w": w, "w+": w_plus, "s": generator.styles(w_plus)}
    wanted = ((vectors["out.image"] + 1) / 2).clamp(0, 1)
    for space, latent in latents.items():
        torch.testing.assert_close(generator.synthesize(latent, space=space), wanted, atol=1e-5, rtol=0)


def test_labels_choose_the_class():
    generator, vectors = golden("sg3t_cond")
    z = vectors["in.z"]
    one, two = (generator.raw_images(z, space="z", labels=k) for k in (1, 2))
    torch.testing.assert_close(one, generator.raw_images(z, space="z", labels=torch.eye(5)[[1] * 4]))
    assert not torch.allclose(one, two)
    with pytest.raises(ValueError, match=r"needs labels \(4, 5\); got none"):
        generator.raw_images(z, space="z")
    styles = generator.styles(vectors["in.w_plus"])
    with pytest.raises(ValueError, match="latents in 's' take none"):
        generator.raw_images(styles, space="s", labels=1)


@pytest.mark.parametrize("settings", [{}, {**R_SETTINGS, "conv_clamp": 0.5}])
def test_synthesis_is_differentiable(settings):
    generator = small(img_resolution=8, num_layers=3, channel_max=3, margin_size=2, **settings).double()
    generator.synthesis["input"].affine.weight.normal_(std=0.1)
    w = generator.sample(1, space="w", seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: generator.raw_images(w, space="w").mean((2, 3)), w)


def test_few_channels_at_a_time_give_the_same_picture(sg3t, monkeypatch):
    generator, vectors = sg3t
    monkeypatch.setattr(stylegan3, "_HIGH_RATE_VALUES", 1)
    images = generator.raw_images(vectors["out.w"], space="w+")
    assert worst(images, vectors["out.image"]) < 3e-5


def test_style_weights_say_how_styles_follow_w(sg3t):
    generator, _ = sg3t
    matrices = generator.style_weights()
    assert len(matrices) == generator.n_layers
    w = torch.randn(2, 8, 40, generator=torch.Generator().manual_seed(0))
    moved = generator.styles(w) - generator.styles(torch.zeros(2, 8, 40))
    layers = [w[:, i] @ matrix.T for i, matrix in enumerate(matrices)]
    torch.testing.assert_close(moved, torch.cat(layers, dim=1), atol=1e-5, rtol=1e-5)


def test_t_moves_the_picture_with_its_input():
    generator, vectors = golden("sg3t")
    still = generator.raw_images(vectors["out.w"], space="w+")
    generator.synthesis["input"].transform[:2, 2] = torch.tensor([2.0, -4.0]) / 32  # x, y in widths
    moved = generator.raw_images(vectors["out.w"], space="w+")
    centre = slice(8, 24)
    shifted = still[:, :, 4:20, 10:26]
    error = (moved[:, :, centre, centre] - shifted).square().mean().sqrt() / still.std()
    assert error < 0.01


def test_r_turns_the_picture_with_its_input():
    generator, vectors = golden("sg3r")
    still = generator.raw_images(vectors["out.w"], space="w+")
    generator.synthesis["input"].transform[:2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    turned = generator.raw_images(vectors["out.w"], space="w+")
    torch.testing.assert_close(turned, still.rot90(1, (2, 3)), atol=1e-4, rtol=0)


def test_state_comes_back_the_same():
    generator = small(use_radial_filters=True, seed=3)
    again = StyleGAN3(**json.loads(json.dumps(generator.kwargs)))
    again.load_state_dict(generator.state_dict(), strict=True)
    assert again.sha256 == generator.sha256
    z = generator.sample(2)
    assert torch.equal(again.synthesize(z, space="z"), generator.synthesize(z, space="z"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"img_resolution": 48}, "power of 2 from 8 up; got 48"),
        ({"img_channels": 4}, "img_channels 4"),
        ({"chanel_max": 8}, "synthesis has no setting 'chanel_max'"),
        ({"mapping_kwargs": {"layer_features": 8}}, "mapping_kwargs has no setting 'layer_features'"),
        ({"num_critical": 4}, "num_layers - 1, 3; got 4"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        small(**settings)


def test_noise_and_foreign_latents_are_refused(sg3t):
    generator, vectors = sg3t
    with pytest.raises(ValueError, match="stylegan3 has no noise inputs"):
        generator.synthesize(vectors["in.z"], space="z", noise="random")
    with pytest.raises(ValueError, match=r"takes latents \(n, 8, 40\); got \(4, 48\)"):
        generator.synthesize(vectors["in.z"], space="w+")
