"""StyleGAN2: the reference's numbers on every way through the network, style space, noise, number types."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from brainedit.generators import modulated, stylegan2
from brainedit.generators.load import build, load_generator, save_generator
from brainedit.generators.stylegan2 import StyleGAN2

VECTORS = Path(__file__).parent / "vectors"
WIDTHS = [7, 5, 6, 3]


@pytest.fixture(scope="module", params=["sg2", "sg2_cond"])
def reference(request):
    """The generator and the numbers that the reference implementation gives for it."""
    kwargs = json.loads((VECTORS / f"{request.param}_kwargs.json").read_text())
    weights = load_file(VECTORS / f"{request.param}_weights.safetensors")
    generator = build("stylegan2", kwargs, weights, source=request.param).requires_grad_(False)
    return generator, load_file(VECTORS / f"{request.param}_vectors.safetensors")


@pytest.fixture
def small():
    """Widths that follow no rule, and noise that is seen."""
    generator = StyleGAN2(
        z_dim=8, w_dim=6, img_resolution=32, synthesis_kwargs={"channels": WIDTHS, "conv_clamp": 256}
    ).requires_grad_(False)
    for name, tensor in generator.state_dict().items():
        if name.endswith("noise_strength"):
            tensor.fill_(0.3)
    return generator


def worst(found, wanted):
    return ((found - wanted).abs().max() / wanted.std()).item()


def test_mapping_and_truncation_reproduce_the_reference(reference):
    generator, golden = reference
    w = generator.map(golden["in.z"], labels=golden.get("in.c") if generator.c_dim else None)
    assert worst(generator.truncate(w, psi=1.0), golden["out.w"]) < 1e-5
    assert worst(generator.truncate(w, psi=0.7), golden["out.w_trunc0.7"]) < 1e-5
    assert worst(generator.truncate(w, psi=0.7, cutoff=4), golden["out.w_trunc0.7_cutoff4"]) < 1e-5


@pytest.mark.parametrize("way", ["with gradients", "together", "alone", "in strips"])
def test_pictures_reproduce_the_reference(reference, way, monkeypatch):
    generator, golden = reference
    monkeypatch.setattr(stylegan2, "_ALONE_FROM", 8 if way in ("alone", "in strips") else 1024)
    monkeypatch.setattr(stylegan2, "_STRIPS_FROM", 8 if way == "in strips" else 1024)
    monkeypatch.setattr(modulated, "_STRIP", 8)
    with torch.set_grad_enabled(way == "with gradients"):
        for w_plus, image in (("out.w", "out.image"), ("in.w_plus", "out.image_w_plus")):
            assert worst(generator.raw_images(golden[w_plus], space="w+"), golden[image]) < 1e-5


def test_first_and_second_derivatives(reference):
    generator = copy.deepcopy(reference[0]).double()
    w = generator.sample(1, space="w", labels=0 if generator.c_dim else None, seed=3).requires_grad_()

    def colour(w):
        return generator.raw_images(w, space="w").mean((2, 3))

    assert torch.autograd.gradcheck(colour, w, atol=1e-4)
    assert torch.autograd.gradgradcheck(colour, w, atol=1e-4, fast_mode=True)


def test_weights_have_gradients_that_small_steps_confirm(small):
    small = small.double().requires_grad_()
    z = small.sample(2, seed=1)
    weight = small.synthesis["b16"].conv0.weight
    small.raw_images(z, space="z").square().sum().backward()
    with torch.no_grad():
        step = torch.zeros_like(weight)
        step[1, 2, 0, 1] = 1e-4
        values = []
        for sign in (1, -1):
            weight += sign * step
            values.append(small.raw_images(z, space="z").square().sum())
            weight -= sign * step
    torch.testing.assert_close((values[0] - values[1]) / 2e-4, weight.grad[1, 2, 0, 1], rtol=1e-4, atol=1e-6)


def test_style_weights_say_how_styles_follow_w(reference):
    generator, _ = reference
    w_plus = torch.randn(2, generator.n_layers, generator.w_dim)
    change = generator.styles(w_plus) - generator.styles(torch.zeros_like(w_plus))
    matrices = generator.style_weights()
    layers = [w_plus[:, i] @ matrix.T for i, matrix in enumerate(matrices)]
    assert [len(matrix) for matrix in matrices] == [24, 48, 24, 48, 24, 48, 16, 16]
    torch.testing.assert_close(change, torch.cat(layers, dim=1))


def test_styles_make_the_same_pictures(reference):
    generator, golden = reference
    styles = generator.styles(golden["in.w_plus"])
    assert styles.shape == (4, generator.n_styles)
    assert worst(generator.raw_images(styles, space="s"), golden["out.image_w_plus"]) < 1e-5
    label = 1 if generator.c_dim else None
    drawn = generator.sample(2, space="s", labels=label, seed=2)
    w_plus = generator.sample(2, space="w+", labels=label, seed=2)
    torch.testing.assert_close(drawn, generator.styles(w_plus))
    with pytest.raises(ValueError, match=rf"takes latents \(n, {generator.n_styles}\); got \(4, 3\)"):
        generator.raw_images(styles[:, :3], space="s")
    with pytest.raises(ValueError, match="latents in 's' take none"):
        generator.raw_images(styles, space="s", labels=0)


def test_a_style_acts_on_its_own_layer(small):
    channels = small.style_channels()
    assert channels[:3] == [("b4.conv1", 0, 7), ("b4.torgb", 7, 14), ("b8.conv0", 14, 21)]
    styles = small.sample(1, space="s", seed=1)
    inputs = {}
    for name, start, stop in channels:
        layer = small.synthesis.get_submodule(name)
        hook = layer.register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given[1]}))
        small.raw_images(styles, space="s")
        hook.remove()
        assert torch.equal(inputs[name], styles[:, start:stop])


def test_the_number_of_styles_of_the_large_network():
    generator = StyleGAN2(z_dim=4, w_dim=4, img_resolution=1024)  # the usual widths, "config f"
    found = {"conv": 0, "torgb": 0}
    for name, start, stop in generator.style_channels():
        found["torgb" if name.endswith("torgb") else "conv"] += stop - start
    assert found == {"conv": 6048, "torgb": 3040}
    assert generator.n_styles == 9088


def test_widths_that_follow_no_rule_survive_a_file(small, tmp_path):
    assert [len(block.conv1.bias) for block in small.synthesis.values()] == WIDTHS
    again = load_generator(save_generator(small, tmp_path / "odd"))
    assert again.kwargs == small.kwargs
    z = small.sample(2)
    assert torch.equal(again.synthesize(z, space="z"), small.synthesize(z, space="z"))
    with pytest.raises(ValueError, match=r"channels needs 4 widths of 1 or more.*got \[7, 5\]"):
        StyleGAN2(z_dim=8, w_dim=6, img_resolution=32, synthesis_kwargs={"channels": [7, 5]})


@pytest.mark.parametrize("way", ["together", "in strips"])
def test_noise(small, way, monkeypatch):
    monkeypatch.setattr(stylegan2, "_ALONE_FROM", 8 if way == "in strips" else 1024)
    monkeypatch.setattr(stylegan2, "_STRIPS_FROM", 8 if way == "in strips" else 1024)
    monkeypatch.setattr(modulated, "_STRIP", 8)
    assert small.noise_sizes() == (4, 8, 8, 16, 16, 32, 32)

    @torch.no_grad()
    def draw(noise):
        return small.raw_images(z, space="z", noise=noise)

    z = small.sample(2)
    stored = [tensor for name, tensor in small.state_dict().items() if name.endswith("noise_const")]
    torch.testing.assert_close(draw(stored), draw("const"))
    torch.testing.assert_close(draw([torch.zeros_like(noise) for noise in stored]), draw("none"))
    torch.manual_seed(0)
    first = draw("random")
    second = draw("random")
    torch.manual_seed(0)
    assert torch.equal(draw("random"), first)
    assert not torch.allclose(first, second, atol=0.01)

    two = [torch.stack([noise, 2 * noise])[:, None] for noise in stored]
    torch.testing.assert_close(draw(two)[0], draw("const")[0])
    torch.testing.assert_close(draw(two)[1], draw([2 * noise for noise in stored])[1])


def test_noise_maps_go_to_their_layers_in_order(small):
    maps = [torch.randn(size, size) for size in small.noise_sizes()]
    given = []
    convs = [layer for layer in small.modules() if isinstance(layer, modulated.StyledConv)]
    hooks = [conv.register_forward_pre_hook(lambda _, inputs: given.append(inputs[2])) for conv in convs]
    small.raw_images(small.sample(1), space="z", noise=maps)
    for hook in hooks:
        hook.remove()
    assert all(torch.equal(found, wanted) for found, wanted in zip(given, maps, strict=True))
    with pytest.raises(ValueError, match=r"or \(2, 1, height, width\); got \(3, 1, 4, 4\)"):
        small.raw_images(small.sample(2), space="z", noise=[maps[0].expand(3, 1, 4, 4), *maps[1:]])


def test_a_network_without_noise():
    generator = StyleGAN2(
        z_dim=8, w_dim=6, img_resolution=8, synthesis_kwargs={"channels": [4, 4], "use_noise": False}
    )
    assert generator.noise_sizes() == ()
    with pytest.raises(ValueError, match="no noise inputs"):
        generator.raw_images(generator.sample(1), space="z", noise="none")


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.15), (torch.float16, 0.02)])
@pytest.mark.parametrize("n", [1, 2])
def test_half_types_come_near_and_return_float32(reference, dtype, limit, n):
    generator, golden = reference
    half = copy.deepcopy(generator).to(dtype)
    with torch.no_grad():
        w_plus = golden["out.w"][:n]
        image = half.raw_images(w_plus, space="w+")
        assert image.dtype == half.styles(w_plus).dtype == torch.float32
        assert worst(image, golden["out.image"][:n]) < limit
        label = 0 if generator.c_dim else None
        assert (
            worst(half.map(golden["in.z"], labels=label), generator.map(golden["in.z"], labels=label)) < 0.1
        )


@pytest.mark.parametrize("n", [1, 2])
def test_large_weights_and_styles_do_not_overflow_in_float16(small, n):
    w_plus = small.sample(n, space="w+")
    for block in small.synthesis.values():
        block.conv1.affine.weight.mul_(200)
        block.conv1.affine.bias.mul_(200)
        block.conv1.weight.mul_(1000)
    with torch.no_grad():
        wanted = small.raw_images(w_plus, space="w+")
        assert worst(copy.deepcopy(small).half().raw_images(w_plus, space="w+"), wanted) < 0.05


def test_weights_may_change_between_pictures(small):
    z = small.sample(1)
    with torch.no_grad():
        before = small.raw_images(z, space="z")
        small.synthesis["b32"].conv1.weight.data.mul_(-3)  # as some running averages do, unseen by autograd
        changed = small.raw_images(z, space="z")
        fresh = copy.deepcopy(small).raw_images(z, space="z")
    assert not torch.allclose(before, changed, atol=0.01)
    assert torch.equal(changed, fresh)
