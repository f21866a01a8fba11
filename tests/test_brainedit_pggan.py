"""The Progressive GAN: the reference's numbers, the sphere, levels of detail, and what is refused."""

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from brainedit.generators.pggan import PGGAN

VECTORS = Path(__file__).parent / "vectors"


@pytest.fixture(scope="module")
def golden():
    return load_file(VECTORS / "pggan_vectors.safetensors")


@pytest.fixture
def pggan():
    generator = PGGAN(**json.loads((VECTORS / "pggan_kwargs.json").read_text()))
    generator.load_state_dict(load_file(VECTORS / "pggan_weights.safetensors"))
    return generator.requires_grad_(False)


def worst(found, wanted):
    return ((found - wanted).abs().max() / wanted.std()).item()


def test_pggan_reproduces_the_reference(pggan, golden):
    z = golden["in.z"]
    sphere = F.normalize(z) * 48**0.5
    assert worst(pggan.raw_images(z, space="z"), golden["out.image"]) < 1e-4
    assert worst(pggan.raw_images(sphere, space="z"), golden["out.image_sphere"]) < 1e-4
    pggan.requires_grad_(True)  # the way without stored kernels
    assert worst(pggan.raw_images(z, space="z"), golden["out.image"]) < 1e-4


def test_only_the_direction_of_z_matters(pggan, golden):
    z = golden["in.z"]
    assert pggan.normalises_z
    torch.testing.assert_close(pggan.raw_images(z, space="z"), pggan.raw_images(7 * z, space="z"))


def test_synthesis_is_differentiable(pggan):
    pggan = pggan.double()
    z = pggan.sample(1, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: pggan.raw_images(z, space="z").mean((2, 3)), z, atol=1e-4)


def test_stored_kernels_follow_the_weights(pggan, golden):
    z = golden["in.z"]
    before = pggan.raw_images(z, space="z")
    twin = copy.deepcopy(pggan)
    for parameter in twin.parameters():
        parameter *= -1
    assert not torch.allclose(twin.raw_images(z, space="z"), before)
    twin.load_state_dict(pggan.state_dict())
    torch.testing.assert_close(twin.raw_images(z, space="z"), before)
    torch.testing.assert_close(twin.double().raw_images(z, space="z").float(), before, atol=1e-4, rtol=1e-4)


def test_the_first_layer_is_one_matrix(pggan):
    (matrix,) = pggan.style_weights()
    z = F.normalize(torch.randn(2, 48)) * 48**0.5
    map_4 = F.leaky_relu(
        (z @ matrix.T).unflatten(1, (48, 4, 4)) + pggan.layer0.wscale["bias"][:, None, None], 0.2
    )
    torch.testing.assert_close(pggan.layer0(z), map_4)


@pytest.mark.parametrize("level", [1.0, 0.25])
def test_a_level_of_detail_blends_in_the_smaller_picture(pggan, golden, level):
    """At 1 the picture is that of the network without its last block, doubled; at .25 a quarter of it."""
    z = golden["in.z"]
    small = PGGAN(resolution=16, channels=[48, 48, 40, 32], z_dim=48)
    state = pggan.state_dict()
    small.load_state_dict({name: state[name] for name in small.state_dict()})
    doubled = small.raw_images(z, space="z").repeat_interleave(2, 2).repeat_interleave(2, 3)
    full = pggan.raw_images(z, space="z")
    pggan.lod.fill_(level)
    wanted = (1 - level) * full + level * doubled
    torch.testing.assert_close(pggan.raw_images(z, space="z"), wanted, atol=1e-4, rtol=1e-4)


def test_widths_are_those_published():
    generator = PGGAN(resolution=1024)
    maps = [generator.get_submodule(f"layer{2 * i + 1}").conv.weight.shape[0] for i in range(9)]
    assert maps == [512, 512, 512, 512, 256, 128, 64, 32, 16]
    assert sum(p.numel() for p in generator.parameters()) == pytest.approx(23.1e6, rel=0.01)


def test_kwargs_make_the_same_network():
    generator = PGGAN(resolution=8, channels=(6, 5, 4), z_dim=6, seed=3)
    again = PGGAN(**json.loads(json.dumps(generator.kwargs)))
    again.load_state_dict(generator.state_dict())
    z = generator.sample(2)
    assert torch.equal(again.synthesize(z, space="z"), generator.synthesize(z, space="z"))
    assert generator.synthesize(z, space="z").shape == (2, 3, 8, 8)
    assert PGGAN(resolution=8, channels=(6, 5, 4), z_dim=6, seed=4).sha256 != generator.sha256


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 4}, "8 to 1024; got 4"),
        ({"resolution": 48}, "8 to 1024; got 48"),
        ({"resolution": 2048}, "8 to 1024; got 2048"),
        ({"resolution": 8, "channels": [512, 4]}, r"needs 3 widths .* got \[512, 4\]"),
        ({"resolution": 8, "channels": [512, 4, 0]}, r"got \[512, 4, 0\]"),
        ({"resolution": 8, "channels": [5, 4, 4], "z_dim": 6}, "is z_dim, 6; got 5"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PGGAN(**settings)


def test_what_pggan_lacks_is_refused(pggan):
    z = torch.zeros(2, 48)
    with pytest.raises(ValueError, match="no space 'w'"):
        pggan.synthesize(z, space="w")
    with pytest.raises(ValueError, match=r"needs no labels; got 1"):
        pggan.synthesize(z, space="z", labels=1)
    with pytest.raises(ValueError, match="no noise inputs"):
        pggan.synthesize(z, space="z", noise="random")
    pggan.lod.fill_(4)
    with pytest.raises(ValueError, match=r"levels of detail 0 to 3; its lod is 4\.0"):
        pggan.synthesize(z, space="z")
