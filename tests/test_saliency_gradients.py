"""Gradient maps against closed forms, captum and hand-computed nets."""

import logging

import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam, Saliency
from torch import nn
from torch.nn import functional as F

from saliency.fills import fill_picture
from saliency.gradients import gradient_map

METHODS = ["integrated_gradients", "smoothgrad", "gradcam"]


def picture(height: int = 16, width: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def weights_like(image: torch.Tensor, seed: int = 5) -> torch.Tensor:
    return torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))


def small_net(n_scores: int = 3, *, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 5, 2, 2), nn.ReLU(inplace), nn.Conv2d(6, 8, 3, 1, 1), nn.Tanh()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, n_scores)).eval()


class Recorder:
    """Passes pictures to a score and keeps them."""

    def __init__(self, score) -> None:
        self.score, self.batches = score, []

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(images.detach().clone())
        return self.score(images)


# Integrated gradients


@pytest.mark.parametrize("baseline", [0.0, 0.5, (0.1, 0.5, 0.9), "mean", "blur", "noise", picture(seed=3)])
def test_integrated_gradients_of_a_linear_score_are_weights_times_the_way_from_the_baseline(baseline):
    image = picture()
    weights = weights_like(image)
    heat = gradient_map(
        lambda images: (images * weights).sum((1, 2, 3)) + 7, image, baseline=baseline, n_steps=3, seed=2
    )
    start = fill_picture(image, fill=baseline, sigma=1.2, seed=2)
    torch.testing.assert_close(heat, (weights * (image - start)).sum(0), atol=1e-5, rtol=0)


def test_integrated_gradients_of_a_cubic_score_are_exact_with_two_points():
    image, baseline = picture().double(), 0.3
    heat = gradient_map(lambda images: (images**3).sum((1, 2, 3)), image, baseline=baseline, n_steps=2)
    torch.testing.assert_close(heat, (image**3 - baseline**3).sum(0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("baseline", [0.0, 0.5, "blur"])
def test_integrated_gradients_sum_to_the_scores_change(baseline):
    net, image = small_net(), picture()
    heat = gradient_map(net, image, baseline=baseline)
    start = fill_picture(image, fill=baseline, sigma=1.2)
    with torch.no_grad():
        change = (net(image[None]) - net(start[None]))[0]
    assert heat.shape == (3, 16, 12)
    assert change.abs().min() > 1e-3
    assert ((heat.sum((1, 2)) - change).abs() < 0.01 * change.abs()).all()


def test_integrated_gradients_are_captums():
    net, image = small_net(), picture()
    heat = gradient_map(net, image, baseline=0.25, n_steps=20, batch_size=7)
    for k in range(3):
        start = torch.full_like(image, 0.25)[None]
        theirs = IntegratedGradients(net).attribute(image[None], start, target=k, n_steps=20)
        torch.testing.assert_close(heat[k], theirs[0].sum(0).float(), atol=1e-6, rtol=0)
    assert heat.abs().max() > 1e-4


def test_warns_when_the_steps_miss_the_change(caplog):
    def jump(images: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(2000 * (images.mean((1, 2, 3)) - 0.1))

    with caplog.at_level(logging.WARNING):
        gradient_map(jump, picture(), n_steps=4)
    assert "of the score's change 1; raise n_steps" in caplog.text


def test_warns_of_the_worst_of_several_scores(caplog):
    def scores(images: torch.Tensor) -> torch.Tensor:
        means = images.mean((1, 2, 3))
        return torch.stack([means, 3 * torch.sigmoid(2000 * (means - 0.1)), -means], 1)

    with caplog.at_level(logging.WARNING):
        gradient_map(scores, picture(), n_steps=4)
    assert caplog.text.count("raise n_steps") == 1
    assert "of the score's change 3; raise n_steps" in caplog.text


def test_does_not_warn_where_the_score_comes_back_to_where_it_was(caplog):
    """The change is 0 up to rounding, which is no reason to ask for more steps."""
    image = picture()
    with caplog.at_level(logging.WARNING):
        gradient_map(lambda images: (images - image / 2).square().sum((1, 2, 3)), image, n_steps=8)
    assert caplog.text == ""


# SmoothGrad


def test_smoothgrad_of_a_linear_score_is_its_largest_weight_with_its_sign():
    image = picture()
    weights = weights_like(image)
    heat = gradient_map(
        lambda images: (images * weights).sum((1, 2, 3)), image, method="smoothgrad", n_samples=5
    )
    expected = weights.gather(0, weights.abs().argmax(0, keepdim=True))[0]
    torch.testing.assert_close(heat, expected, atol=1e-5, rtol=0)
    assert (expected < 0).any()


def test_smoothgrad_sees_a_difference_of_colours():
    """Red less green has a gradient whose channels add up to 0."""
    heat = gradient_map(
        lambda images: (images[:, 0] - 2 * images[:, 1] + images[:, 2]).sum((1, 2)),
        picture(),
        method="smoothgrad",
        n_samples=2,
    )
    torch.testing.assert_close(heat, torch.full((16, 12), -2.0))


def test_smoothgrad_averages_captums_gradients_over_the_noisy_copies():
    net, image = small_net(), picture()
    recorder = Recorder(net)
    heat = gradient_map(recorder, image, method="smoothgrad", n_samples=9, noise=0.2, batch_size=4)
    assert [len(batch) for batch in recorder.batches] == [1, *[4, 4, 1] * 3]
    drawn = torch.cat(recorder.batches[1:]).unflatten(0, (3, 9))
    assert torch.equal(drawn[1:], drawn[:1].expand(2, -1, -1, -1, -1))  # each score meets the same copies
    copies = drawn[0].clone().requires_grad_(True)
    for k in range(3):
        slopes = Saliency(net).attribute(copies, target=k, abs=False).mean(0).detach()
        expected = slopes.gather(0, slopes.abs().argmax(0, keepdim=True))[0]
        torch.testing.assert_close(heat[k], expected, atol=1e-6, rtol=0)


def test_smoothgrads_noise_has_the_deviation_asked_for_and_differs_between_copies():
    image = picture(40, 40)
    recorder = Recorder(lambda images: images.mean((1, 2, 3)))
    gradient_map(recorder, image, method="smoothgrad", n_samples=20, noise=0.3)
    noise = torch.cat(recorder.batches[1:]) - image
    assert float(noise.std()) == pytest.approx(0.3, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.005)
    assert float(noise.mean(0).std()) == pytest.approx(0.3 / 20**0.5, rel=0.05)


def test_smoothgrad_smooths_a_kink_into_the_normal_distribution():
    """The mean slope of |x - 1/2| over normal noise is 2 Phi((x - 1/2) / deviation) - 1."""
    image, noise, n_samples = torch.linspace(0.1, 0.9, 24).reshape(1, 4, 6).repeat(3, 1, 1), 0.2, 4000
    settings = {"method": "smoothgrad", "noise": noise, "n_samples": n_samples, "batch_size": 500}
    heat = gradient_map(lambda images: (images[:, 0] - 0.5).abs().sum((1, 2)), image, **settings)
    expected = torch.erf((image[0] - 0.5) / noise / 2**0.5)
    error = ((1 - expected**2) / n_samples).sqrt()
    assert ((heat - expected) / error).abs().max() < 4


def test_no_noise_is_the_gradient_and_seeds_differ():
    net, image = small_net(1), picture()
    slopes = Saliency(net).attribute(image[None].clone().requires_grad_(True), target=0, abs=False)[0]
    plain = gradient_map(net, image, method="smoothgrad", noise=0, n_samples=1)[0]
    torch.testing.assert_close(plain.abs(), slopes.abs().amax(0), atol=1e-6, rtol=0)
    first, again, other = (
        gradient_map(net, image, method="smoothgrad", n_samples=3, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-4


# Grad-CAM


class Squares(nn.Module):
    """The sum over two maps, each a mix of the colours, of the map's mean square."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 2, 1, bias=False)
        self.mix.weight.data = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 0.0, 1.0]])[:, :, None, None]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.mix(images).square().mean((2, 3)).sum(1)


def test_gradcam_of_a_net_computed_by_hand():
    image = picture()
    maps = torch.stack([image[0] - 2 * image[1] + 0.5 * image[2], image[2] - image[0]])
    expected = sum(2 * each.mean() / each.numel() * each for each in maps)
    signed = gradient_map(Squares(), image, method="gradcam", layer="mix", relu=False)
    torch.testing.assert_close(signed, expected, atol=1e-8, rtol=1e-5)
    assert (expected < 0).any()
    published = gradient_map(Squares(), image, method="gradcam", layer="mix")
    torch.testing.assert_close(published, expected.clamp(min=0), atol=1e-8, rtol=1e-5)


def test_gradcam_of_a_pooled_linear_net_sums_to_the_score_without_its_bias():
    torch.manual_seed(0)
    conv, head = nn.Conv2d(3, 4, 4, 4), nn.Linear(4, 1)
    net, image = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head), picture()
    heat = gradient_map(net, image, method="gradcam", relu=False)
    score = (net(image[None]) - head.bias).item()
    assert heat.sum().item() / 16 == pytest.approx(
        score, abs=1e-5
    )  # each of the 4 x 3 places became 16 pixels


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
@pytest.mark.parametrize("relu", [True, False])
def test_gradcam_is_captums(layer, relu):
    net, image = small_net(), picture()
    heat = gradient_map(net, image, method="gradcam", layer=net[layer], relu=relu)
    for k in range(3):
        theirs = LayerGradCam(net, net[layer]).attribute(image[None], target=k, relu_attributions=relu)
        theirs = F.interpolate(theirs, size=(16, 12), mode="bilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(heat[k], theirs.detach(), atol=1e-7, rtol=1e-5)
    assert heat.abs().max() > 1e-5


def test_gradcam_is_not_misled_by_what_works_in_place():
    image, settings = picture(), {"method": "gradcam", "layer": "0", "relu": False}
    copied, in_place = (gradient_map(small_net(inplace=each), image, **settings) for each in (False, True))
    torch.testing.assert_close(copied, in_place, atol=1e-8, rtol=1e-5)


def test_gradcam_takes_the_last_maps_unless_told(caplog):
    net, image = small_net(), picture()
    with caplog.at_level(logging.INFO):
        heat = gradient_map(net, image, method="gradcam")
    assert "Grad-CAM of layer '3'" in caplog.text
    assert torch.equal(heat, gradient_map(net, image, method="gradcam", layer="3"))
    assert not torch.equal(heat, gradient_map(net, image, method="gradcam", layer="0"))


def test_the_last_maps_of_a_residual_net_are_its_last_stage(caplog):
    from torchvision.models import resnet18

    with caplog.at_level(logging.INFO):
        heat = gradient_map(resnet18(num_classes=2).eval(), picture(64, 64), method="gradcam", relu=False)
    assert "Grad-CAM of layer 'layer4'" in caplog.text
    assert heat.shape == (2, 64, 64)


def test_gradcam_of_a_function_takes_the_module_itself():
    net, image = small_net(), picture()
    expected = gradient_map(net, image, method="gradcam", layer="2")[1]
    heat = gradient_map(lambda images: net(images)[:, 1], image, method="gradcam", layer=net[2])
    torch.testing.assert_close(heat, expected, atol=1e-8, rtol=1e-5)
    with pytest.raises(ValueError, match=r"layer itself as a module, the score is a function; got layer='2'"):
        gradient_map(lambda images: net(images), image, method="gradcam", layer="2")
    with pytest.raises(ValueError, match=r"layer itself as a module.*; got layer=None"):
        gradient_map(lambda images: net(images), image, method="gradcam")


class Tokens(nn.Module):
    """A patch embedding, then tokens with attention written out as heads x tokens x tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.drop, self.norm = nn.Conv2d(3, 8, 4, 4), nn.Dropout(), nn.LayerNorm(8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(images).flatten(2).mT
        heads = tokens.unflatten(2, (2, 4)).transpose(1, 2)
        attention = self.drop((heads @ heads.mT).softmax(-1))  # (n, 2, tokens, tokens) are no maps
        return self.norm((attention @ heads).transpose(1, 2).flatten(2)).square().mean((1, 2))


def test_gradcam_does_not_guess_a_layer_of_a_transformer():
    with pytest.raises(ValueError, match="it goes on with tokens; pass layer="):
        gradient_map(Tokens().eval(), picture(16, 16), method="gradcam")
    with pytest.raises(ValueError, match="a LayerNorm has its channels last"):
        gradient_map(Tokens().eval(), picture(16, 16), method="gradcam", layer="norm")


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 40, 4, 4), nn.LayerNorm(40)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(images).permute(0, 2, 3, 1)).square().mean((1, 2, 3))


def test_gradcam_does_not_take_channels_for_columns(caplog):
    with caplog.at_level(logging.INFO):
        gradient_map(ChannelsLast(), picture(16, 16), method="gradcam")
    assert "layer 'conv'" in caplog.text
    with pytest.raises(ValueError, match="a LayerNorm has its channels last"):
        gradient_map(ChannelsLast(), picture(16, 16), method="gradcam", layer="norm")


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.unused = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(self.conv(images)).tanh().mean((1, 2, 3))


class Windows(nn.Module):
    """Maps of each quarter of the picture, as windowed attention has them: (4 n, c, h / 2, w / 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        quarters = images.unflatten(3, (2, -1)).unflatten(2, (2, -1)).permute(0, 2, 4, 1, 3, 5)
        return self.conv(quarters.flatten(0, 2)).unflatten(0, (len(images), 4)).square().mean((1, 2, 3, 4))


def test_gradcam_does_not_take_windows_for_pictures():
    with pytest.raises(ValueError, match=r"it gives \(4, 2, 8, 6\)"):
        gradient_map(Windows(), picture(), method="gradcam", layer="conv")


def test_gradcam_says_which_layers_it_cannot_use():
    net, image = small_net(), picture()
    with pytest.raises(ValueError, match="uses once, it is used 2 times"):
        gradient_map(Twice(), image, method="gradcam", layer="conv")
    with pytest.raises(ValueError, match="uses once, it is used 0 times"):
        gradient_map(Twice(), image, method="gradcam", layer="unused")
    with pytest.raises(
        ValueError, match="Need a layer for Grad-CAM of this score, no module of it gives maps"
    ):
        gradient_map(Twice(), image, method="gradcam")
    with pytest.raises(ValueError, match=r"it gives \(1, 8, 1, 1\)"):
        gradient_map(net, image, method="gradcam", layer="4")
    with pytest.raises(ValueError, match=r"Unknown layer '9'.*Known: 0, 1, 2"):
        gradient_map(net, image, method="gradcam", layer="9")
    with pytest.raises(TypeError, match="as a module or its name, got int"):
        gradient_map(net, image, method="gradcam", layer=3)
    with pytest.raises(ValueError, match="Need method='gradcam' for a layer, got 'integrated_gradients'"):
        gradient_map(net, image, layer="3")
    assert not any(module._forward_hooks for module in net.modules())


# All of them


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_mapped_together_as_singly(method):
    net, image = small_net(), picture()
    layer = net[2] if method == "gradcam" else None
    settings = {"method": method, "n_steps": 6, "n_samples": 6, "layer": layer, "relu": False}
    maps = gradient_map(net, image, **settings)
    assert maps.shape == (3, 16, 12)
    assert maps.dtype == torch.float32
    for k in range(3):
        alone = gradient_map(lambda images, k=k: net(images)[:, k], image, **settings)
        assert alone.shape == (16, 12)
        torch.testing.assert_close(maps[k], alone, atol=1e-7, rtol=1e-5)
    assert gradient_map(lambda images: net(images)[:, :1], image, **settings).shape == (1, 16, 12)
    for size in (1, 5):
        torch.testing.assert_close(
            maps, gradient_map(net, image, **settings, batch_size=size), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_for_the_score_and_not_for_the_sum(method):
    image, net = (picture() * 64).round() / 64, small_net(2)  # exact in half precision
    settings = {"method": method, "layer": net[2] if method == "gradcam" else None, "relu": False}
    exact = gradient_map(net.double(), image.double(), **settings)
    heat = gradient_map(net.half(), image.half(), **settings)
    assert exact.dtype == torch.float64
    assert heat.dtype == torch.float32
    assert (heat - exact).abs().max() < 0.01 * exact.abs().max()


@pytest.mark.parametrize(
    ("method", "expected"), [("integrated_gradients", "21/21"), ("smoothgrad", "15/15"), ("gradcam", "3/3")]
)
def test_progress_counts_pictures_over_all_scores(method, expected, capsys):
    gradient_map(small_net(), picture(), method=method, n_steps=7, n_samples=5, batch_size=2, progress=True)
    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.out == ""


def test_passes_on_what_goes_wrong_inside_a_score():
    def score(images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("out of memory")
        return images.mean((1, 2, 3))

    with pytest.raises(RuntimeError, match="out of memory"):
        gradient_map(score, picture())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_switched_on_inside_and_leave_nothing_behind(method, mode):
    net, image = small_net(), picture()
    untouched, state = image.clone(), torch.get_rng_state()
    expected = gradient_map(net, image, method=method)
    with mode():
        inside = gradient_map(net, image.clone(), method=method)
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(inside.clone(), expected)
    assert not expected.requires_grad
    assert torch.equal(image, untouched)
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("method", METHODS)
def test_frozen_nets_and_pictures_with_gradients_have_maps_too(method):
    net, image = small_net(), picture()
    expected = gradient_map(net, image, method=method)
    frozen = gradient_map(net.requires_grad_(False), image.requires_grad_(True), method=method)
    assert torch.equal(frozen, expected)
    assert not frozen.requires_grad
    assert image.grad is None


class Trainable(nn.Module):
    """Has parameters with gradients, but cuts the picture off from them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images.detach())


@pytest.mark.parametrize(
    "score",
    [
        torch.no_grad()(lambda images: images.mean((1, 2, 3))),
        lambda images: torch.from_numpy(images.detach().numpy().mean((1, 2, 3))),
        lambda images: (images.mean((1, 2, 3)) > 0.5).float(),
        lambda images: torch.zeros(len(images)),
        Trainable(),
    ],
)
@pytest.mark.parametrize("method", METHODS[:2])
def test_says_that_a_score_has_no_gradient(score, method):
    with pytest.raises(ValueError, match=r"this one has none.*use occlusion_map or rise_map"):
        gradient_map(score, picture(), method=method)


def test_gradcam_says_that_the_score_does_not_follow_from_the_layer():
    net = small_net(1)
    with pytest.raises(ValueError, match=r"this one has none.*use occlusion_map or rise_map"):
        gradient_map(lambda images: net(images).detach(), picture(), method="gradcam", layer=net[2])


@pytest.mark.parametrize("method", METHODS)
def test_says_that_a_map_is_empty(method, caplog):
    net = small_net(1)
    with caplog.at_level(logging.WARNING):
        heat = gradient_map(
            lambda images: 0 * net(images),
            picture(),
            method=method,
            layer=net[2] if method == "gradcam" else None,
        )
    assert (heat == 0).all()
    assert f"The map by {method} is 0 everywhere" in caplog.text


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"method": "smooth_grad"}, "Unknown method 'smooth_grad'. Did you mean 'smoothgrad'"),
        ({"method": "GradCAM"}, "Unknown method 'GradCAM'. Did you mean 'gradcam'"),
        ({"n_steps": 0}, "n_steps to be a whole number of at least 1, got 0"),
        ({"n_samples": 1.5}, "n_samples to be a whole number of at least 1, got 1.5"),
        ({"batch_size": -1}, "batch_size to be a whole number of at least 1, got -1"),
        ({"noise": -0.1}, "deviation of 0 or more, got -0.1"),
        ({"noise": float("nan")}, "deviation of 0 or more, got nan"),
        ({"baseline": "inpaint"}, "does not depend on the covered square, got 'inpaint'"),
        ({"baseline": 3}, "got 3 to 3"),
    ],
)
def test_says_which_setting_does_not_fit(settings, match):
    with pytest.raises(ValueError, match=match):
        gradient_map(small_net(), picture(), **settings)


def test_says_what_is_wrong_with_a_score_or_picture():
    with pytest.raises(ValueError, match="values are NaN or infinite"):
        gradient_map(lambda images: images.sum((1, 2, 3)).sub(images.sum((1, 2, 3))).sqrt(), picture())
    with pytest.raises(ValueError, match="BatchNorm2d '0' is in training mode"):
        gradient_map(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(576, 1)), picture())
    with pytest.raises(ValueError, match="got 0 to 200; normalise inside"):
        gradient_map(small_net(), torch.tensor([0.0, 1.0, 200.0])[:, None, None].repeat(1, 4, 4))
