"""Exact occlusion by locality: every network gives what covering, scoring and averaging one by one gives."""

import copy
import logging
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from saliency import covered, memory
from saliency.image import occlusion_map, occlusion_steps, window_starts
from saliency.locality import LocalScore
from saliency.tracing import Kernel, trace

torch.manual_seed(0)


def covered_one_by_one(score, image, window, stride, fill=0.5):
    """The definition: a copy for every window, the fall of the score averaged over a pixel's windows."""
    with torch.no_grad():
        clean = score(image[None]).reshape(-1).double()
        total = torch.zeros(len(clean), *image.shape[1:], dtype=torch.float64)
        count = torch.zeros(image.shape[1:], dtype=torch.float64)
        places = [window_starts(size, window, stride) for size in image.shape[1:]]
        for top, left in product(*places):
            copy = image.clone()
            copy[:, top : top + window, left : left + window] = fill
            fall = clean - score(copy[None]).reshape(-1).double()
            total[:, top : top + window, left : left + window] += fall[:, None, None]
            count[top : top + window, left : left + window] += 1
    return total / count


def assert_same(score, image, window=12, stride=5, *, may_be_constant=False):
    """In double precision to rounding; in single precision, where oneDNN computes, as far as that goes."""
    for precision, relative, absolute in ((torch.float64, 1e-10, 1e-13), (torch.float32, 1e-4, 1e-6)):
        network, picture = copy.deepcopy(score).eval().to(precision), image.to(precision)
        found = occlusion_map(network, picture, window=window, stride=stride)
        wanted = covered_one_by_one(network, picture, window, stride)
        found = found if found.ndim == 3 else found[None]
        span, size = wanted.max() - wanted.min(), network(picture[None]).abs().max()
        assert may_be_constant or span > 0
        assert (found.double() - wanted).abs().max() <= relative * span + absolute * size


def way(caplog, score, image, **settings):
    """What the log says of the way that was taken."""
    with caplog.at_level(logging.INFO, logger="saliency.covered"):
        occlusion_map(score.eval(), image, window=12, stride=6, **settings)
    return caplog.text


class Pooled(nn.Module):
    """Maps -> scores (n, k), with a normalisation before and a linear layer behind."""

    def __init__(self, *layers, k=2):
        super().__init__()
        self.layers, self.k = nn.Sequential(*layers), k
        self.head = nn.LazyLinear(k)

    def forward(self, x):
        maps = self.layers((x - 0.4) / 0.3)
        return self.head(maps.mean((2, 3)))


def ready(network, image):
    """Weights made, batch norms with statistics of their own."""
    network.eval()
    with torch.no_grad():
        network(image[None])
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                if module.affine:
                    module.weight.normal_(1, 0.3)
                    module.bias.normal_(0, 0.3)
    return network


class Residual(nn.Module):
    """Two ways of one geometry that meet."""

    def __init__(self, n, *, join):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(n, n, 3, padding=1), nn.BatchNorm2d(n), nn.ReLU(inplace=True))
        self.second = nn.Conv2d(n, n, 5, padding=2, groups=n)
        self.join = join

    def forward(self, x):
        return self.join(self.second(self.first(x)), x)


class SqueezeExcite(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.gate = nn.Conv2d(n, n, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))


def conv(a, b, k, **settings):
    return nn.Conv2d(a, b, k, **settings)


NETWORKS = {
    "convolutions": lambda: Pooled(
        conv(3, 8, 3, padding=1), nn.ReLU(), conv(8, 6, 3), nn.ReLU6(), conv(6, 5, 2)
    ),
    "strides": lambda: Pooled(
        conv(3, 8, 5, stride=2, padding=2), nn.SiLU(), conv(8, 8, 3, stride=3, padding=1)
    ),
    "dilation and groups": lambda: Pooled(
        conv(3, 8, 3, dilation=2, padding=2), nn.Hardswish(), conv(8, 8, 3, dilation=(3, 1), groups=4)
    ),
    "other shapes of kernels": lambda: Pooled(
        conv(3, 8, (1, 5), stride=(1, 2), padding=(0, 2)), nn.GELU(), conv(8, 8, (4, 1), padding=(2, 0))
    ),
    "a batch norm behind and one before": lambda: Pooled(
        nn.BatchNorm2d(3), conv(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.1), conv(8, 4, 3)
    ),
    "two batch norms in a row": lambda: Pooled(
        conv(3, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.Tanh()
    ),
    "batch norms without weights": lambda: Pooled(conv(3, 8, 3), nn.BatchNorm2d(8, affine=False), nn.ReLU()),
    "pools": lambda: Pooled(
        conv(3, 8, 3, padding=1), nn.MaxPool2d(3, 2, padding=1), conv(8, 8, 3), nn.AvgPool2d(3, 1, padding=1)
    ),
    "pools that count otherwise": lambda: Pooled(
        conv(3, 8, 3), nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), nn.MaxPool2d(2, ceil_mode=True)
    ),
    "paddings": lambda: Pooled(
        nn.ZeroPad2d((0, 1, 2, 0)),
        conv(3, 8, 3, stride=2),
        nn.ConstantPad2d((1, 0, 0, 3), 0.7),
        conv(8, 8, 3, padding=1),
    ),
    "reflections, which are not local": lambda: Pooled(
        conv(3, 8, 3, padding=1, padding_mode="reflect"), nn.ReLU(), conv(8, 4, 3)
    ),
    "sums": lambda: Pooled(conv(3, 8, 3, stride=2), Residual(8, join=torch.add), Residual(8, join=torch.mul)),
    "concatenations": lambda: Pooled(
        conv(3, 4, 3, padding=1), Residual(4, join=lambda a, b: torch.cat([a, b], 1)), conv(8, 4, 3, stride=2)
    ),
    "squeeze and excite": lambda: Pooled(
        conv(3, 8, 3, padding=1), nn.ReLU(), conv(8, 8, 3), SqueezeExcite(8), conv(8, 8, 3), nn.Sigmoid()
    ),
    "norms over space": lambda: Pooled(conv(3, 8, 3), nn.ReLU(), nn.GroupNorm(2, 8), conv(8, 8, 3)),
    "a transposed convolution": lambda: Pooled(
        conv(3, 8, 3, stride=2), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3, stride=2), conv(4, 4, 3)
    ),
    "slopes by channel": lambda: Pooled(conv(3, 8, 3), nn.PReLU(8), conv(8, 8, 3), nn.ELU(), nn.Softplus()),
}


@pytest.fixture(scope="module")
def image():
    return torch.rand(3, 40, 47, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, image):
    assert_same(ready(NETWORKS[name](), image), image)


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (7, 7), (12, 12), (33, 9), (40, 40)])
def test_windows(window, stride, image):
    small = image[:, :, :40] if window == 1 else image
    small = small[:, :14, :15] if window == 1 else small
    assert_same(ready(NETWORKS["sums"](), small), small, window=window, stride=stride)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 1000])
def test_batches(batch_size, image):
    score = ready(NETWORKS["strides"](), image)
    wanted = occlusion_map(score, image, window=12, stride=5)
    found = occlusion_map(score, image, window=12, stride=5, batch_size=batch_size)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_random_networks():
    """Layers drawn at random; every one of them must agree with the definition."""
    for seed in range(25):
        rng = torch.Generator().manual_seed(seed)

        def draw(n, rng=rng):
            return int(torch.randint(n, (), generator=rng))

        layers, n = [], 3
        for _ in range(2 + draw(4)):
            k, m = 1 + draw(4), 2 + draw(5)
            kinds = [
                conv(n, m, k, stride=1 + draw(2), padding=draw(k), dilation=1 + draw(2)),
                nn.Sequential(conv(n, m, k, padding=k // 2), nn.BatchNorm2d(m), nn.ReLU6(inplace=True)),
                nn.Sequential(nn.ZeroPad2d((draw(3), draw(3), draw(3), draw(3))), conv(n, m, k)),
            ]
            layers += [kinds[draw(3)], [nn.ReLU(), nn.Sigmoid(), nn.Identity()][draw(3)]]
            n = m
            if draw(3) == 0:
                layers.append(
                    [nn.MaxPool2d(2, 1), nn.AvgPool2d(3, 1, 1), Residual(n, join=torch.add)][draw(3)]
                )
        image = torch.rand(3, 36 + draw(9), 36 + draw(9), generator=rng)
        assert_same(
            ready(Pooled(*layers), image), image, window=5 + draw(9), stride=3 + draw(3), may_be_constant=True
        )


def test_a_score_of_one_value_and_of_double_precision(image):
    score = ready(Pooled(conv(3, 8, 3), nn.ReLU(), conv(8, 8, 3)), image).double()
    single = nn.Sequential(score, nn.Flatten(0))
    single[0].head = nn.Linear(8, 1).double()
    found = occlusion_map(single.eval(), image.double(), window=12, stride=6)
    assert found.shape == image.shape[1:]
    assert found.dtype == torch.float64
    wanted = covered_one_by_one(single, image.double(), 12, 6)[0]
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_known_networks(image):
    models = pytest.importorskip("torchvision.models")
    picture = F.interpolate(image[None], size=96)[0]
    for make in (models.resnet18, models.squeezenet1_1, models.mobilenet_v3_small):
        torch.manual_seed(0)
        assert_same(ready(make(num_classes=3), picture), picture, window=24, stride=24)


# which way is taken


def test_the_log_says_which_way(caplog, image):
    score = ready(NETWORKS["sums"](), image)
    assert "where a window matters" in way(caplog, score, image)
    caplog.clear()
    opaque = lambda x: score(x)  # noqa: E731
    opaque.eval = lambda: opaque
    assert "it is not a torch.nn.Module" in way(caplog, opaque, image)


def test_attention_takes_the_plain_way(caplog, image):
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.attend = conv(3, 8, 8, stride=8), nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            tokens = self.patches(x).flatten(2).transpose(1, 2)
            return self.attend(tokens, tokens, tokens)[0].mean((1, 2))

    score = Attending().eval()
    assert "see the whole picture come first" in way(caplog, score, image)
    assert_same(score, image)


def test_a_branch_on_the_picture_takes_the_plain_way(caplog, image):
    class Branching(Pooled):
        def forward(self, x):
            return super().forward(x) * (2.0 if x.mean() > 0.5 else 1.0)

    score = ready(Branching(conv(3, 8, 3), nn.ReLU(), conv(8, 8, 3)), image)
    assert "cannot be traced" in way(caplog, score, image)


def test_what_depends_on_the_rest_of_the_batch_is_found_out(caplog, image):
    class Blind(Pooled):
        """Its answer depends on how many pictures come with one."""

        def forward(self, x):
            return super().forward(x) * len(x)

    score = ready(Blind(conv(3, 8, 3), nn.ReLU(), conv(8, 8, 3)), image)
    with caplog.at_level(logging.WARNING, logger="saliency.covered"):
        occlusion_map(score, image, window=12, stride=6, batch_size=3)
    assert "differs from the plain one" in caplog.text


def test_changed_weights_are_seen(image):
    score = ready(NETWORKS["convolutions"](), image)
    before = occlusion_map(score, image, window=12, stride=12)
    with torch.no_grad():
        score.head.weight.mul_(2)
    assert torch.allclose(occlusion_map(score, image, window=12, stride=12), 2 * before, atol=1e-6)
    score.layers[0] = conv(3, 8, 3, padding=1)
    assert_same(score, image)


def test_a_score_is_not_kept_alive(image):
    score = ready(NETWORKS["convolutions"](), image)
    n_before = len(covered._traced)
    occlusion_map(score, image, window=12, stride=12)
    assert len(covered._traced) == n_before + 1
    del score
    assert len(covered._traced) == n_before


def test_networks_are_left_as_they_were(image):
    score = ready(NETWORKS["sums"](), image)
    state = {name: value.clone() for name, value in score.state_dict().items()}
    strides = [p.stride() for p in score.parameters()]
    occlusion_map(score, image, window=12, stride=12)
    assert all(torch.equal(state[name], value) for name, value in score.state_dict().items())
    assert strides == [p.stride() for p in score.parameters()]
    assert all(p.requires_grad for p in score.parameters())


# geometry


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_reach_is_what_changes(size, stride, before):
    """Against a line of ones, of which some are changed."""
    length = 17
    weight = torch.rand(1, 1, size) + 0.1
    kernel = Kernel((size, 1), (stride, 1), (before, 0), (before, 0))
    clean = F.conv1d(torch.ones(1, 1, length), weight, stride=stride, padding=before)[0, 0]
    for a in range(length):
        for b in range(a + 1, min(a + 5, length + 1)):
            line = torch.ones(1, 1, length)
            line[..., a:b] = 2
            changed = (
                (F.conv1d(line, weight, stride=stride, padding=before)[0, 0] != clean).nonzero().flatten()
            )
            first, last = kernel.reach(0, (a, b), len(clean))
            if len(changed):
                assert first <= changed[0]
                assert last >= changed[-1] + 1
            if stride <= size:  # nothing is skipped
                assert (first, last) == (changed[0], changed[-1] + 1) if len(changed) else first >= last


def test_batch_norms_and_activations_are_taken_into_convolutions(image):
    score = ready(Pooled(conv(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.ZeroPad2d(1), conv(8, 8, 3)), image)
    steps = trace(score, image[None])
    kinds = [step.kind for step in steps]
    assert kinds.count("kernel") == 2
    assert kinds[:3] == ["input", "pointwise", "pointwise"]  # the normalisation
    assert LocalScore.n_local(steps) == kinds.index("other") - 1


# coarse to fine


def test_steps_end_in_the_map(image):
    score = ready(NETWORKS["sums"](), image)
    maps = list(occlusion_steps(score, image, window=12, stride=3))
    assert len(maps) == 3
    assert all(found.shape == (2, *image.shape[1:]) for found in maps)
    assert torch.allclose(maps[-1], occlusion_map(score, image, window=12, stride=3), atol=1e-6)


def test_no_window_is_computed_twice(image):
    seen = []

    def score(x):
        seen.extend(x.flatten(1).double().sum(1).tolist())
        return x.mean((1, 2, 3))

    n = len(list(occlusion_steps(score, image, window=10, stride=3)))
    n_windows = len(window_starts(40, 10, 3)) * len(window_starts(47, 10, 3))
    assert n == 2
    assert len(seen) == n_windows + 1  # and the clean picture


# memory


def test_bytes_of_one_input():
    n = 4 * 3 * 16 * 16
    score = lambda x: (x * 2).relu().mean((1, 2, 3))  # noqa: E731
    assert memory.bytes_for_one(score, torch.rand(3, 16, 16)) == pytest.approx(3 * n, abs=8)


def test_max_memory_makes_batches_smaller(image):
    sizes = []

    def score(x):
        sizes.append(len(x))
        return x.mean((1, 2, 3))

    one = memory.bytes_for_one(score, image)
    sizes.clear()
    occlusion_map(score, image, window=12, stride=6, max_memory=2 * one + 10)
    assert max(sizes) == 2


def test_max_memory_that_is_too_small_is_told(image):
    with pytest.raises(ValueError, match=r"One input needs .* max_memory is 0 MiB"):
        occlusion_map(lambda x: x.mean((1, 2, 3)), image, window=12, stride=6, max_memory=100)
    with pytest.raises(ValueError, match=r"max_memory .* at least 1, got 0"):
        occlusion_map(lambda x: x.mean((1, 2, 3)), image, window=12, stride=6, max_memory=0)


def test_bfloat16_says_how_far_it_is(caplog, image):
    score = ready(NETWORKS["convolutions"](), image)
    exact = occlusion_map(score, image, window=12, stride=6)
    found = occlusion_map(score, image, window=12, stride=6, precision="bfloat16")
    assert "bfloat16 moves the map by up to" in caplog.text
    assert 0 < (found - exact).abs().max() < exact.max() - exact.min()
    with pytest.raises(ValueError, match="Unknown precision 'half'"):
        occlusion_map(score, image, precision="half")


# what a reader of the code found


class Choosing(Pooled):
    """A score whose target is an attribute, as in many an explainer."""

    target = 0

    def forward(self, x):
        return super().forward(x)[:, self.target]


def test_a_changed_attribute_is_seen(image):
    score = ready(Choosing(conv(3, 8, 3), nn.ReLU(), conv(8, 8, 3), nn.ReLU()), image)
    first = occlusion_map(score, image, window=12, stride=12)
    score.target = 1
    second = occlusion_map(score, image, window=12, stride=12)
    assert not torch.allclose(first, second)
    assert_same(score, image)


def test_weights_changed_behind_torchs_back_are_seen(image):
    score = ready(NETWORKS["convolutions"](), image)
    before = occlusion_map(score, image, window=12, stride=12)
    score.head.weight.data.neg_()  # leaves torch's version of the tensor as it was
    assert torch.allclose(occlusion_map(score, image, window=12, stride=12), -before, atol=1e-6)


def test_a_score_that_works_in_place_leaves_the_picture(image):
    class InPlace(Pooled):
        def forward(self, x):
            return super().forward(x.sub_(0.5).div_(0.25))

    score = ready(InPlace(conv(3, 8, 3), nn.ReLU(), conv(8, 8, 3)), image.clone())
    before = image.clone()
    found = occlusion_map(score, image, window=12, stride=6)
    assert torch.equal(image, before)
    opaque = occlusion_map(lambda x: score(x), image, window=12, stride=6)
    assert torch.equal(image, before)
    assert torch.allclose(found, opaque, atol=1e-6)


def test_a_norm_behind_the_maps(image):
    class Normed(Pooled):
        def __init__(self):
            super().__init__(conv(3, 8, 3), nn.ReLU(), conv(8, 8, 3))
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x):
            return self.norm(super().forward(x))

    score = ready(Normed(), image)
    score.norm.running_mean.normal_()
    assert_same(score, image)


def test_nan_is_not_lost_in_a_fused_activation(image):
    class Rooted(Pooled):
        def forward(self, x):
            return super().forward((x - 0.1).sqrt())

    score = ready(Rooted(conv(3, 8, 3), nn.ReLU(), conv(8, 8, 3), nn.ReLU()), image.clamp(0.2, 1))
    with pytest.raises(ValueError, match="NaN or infinite"):
        occlusion_map(score, image.clamp(0.2, 1), window=12, stride=6, fill=0.0)


def test_a_padding_by_nothing_shares_no_memory(image):
    class Sharing(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = conv(3, 8, 3), conv(8, 2, 3)

        def forward(self, x):
            a = self.first(x)
            return self.second(F.relu(F.pad(a, (0, 0, 0, 0))) + a).mean((2, 3))

    assert_same(Sharing(), image)


def test_a_step_wider_than_its_kernel(image):
    assert_same(
        ready(Pooled(conv(3, 8, 1, stride=4), nn.SiLU(), conv(8, 8, 3)), image), image, window=2, stride=2
    )


def test_randomness_in_training_mode_is_told(image):
    class Dropping(Pooled):
        def forward(self, x):
            return F.dropout(super().forward(x), 0.5, self.training)

    score = ready(Dropping(conv(3, 8, 3), nn.ReLU(), conv(8, 8, 3), k=8), image).train()
    with pytest.raises(ValueError, match=r"changes from call to call .* \.eval\(\)"):
        occlusion_map(score, image, window=12, stride=6)


def test_scores_without_a_hash(image):
    class Equal(Pooled):
        __hash__ = None

        def __eq__(self, other):
            return True

    parts = (conv(3, 8, 3), nn.ReLU(), conv(8, 8, 3))
    assert occlusion_map(ready(Pooled(*parts), image), image, window=12, stride=12).shape[0] == 2
    try:
        score = ready(Equal(*parts), image)
    except TypeError:
        pytest.skip("torch itself needs modules with a hash")
    assert occlusion_map(score, image, window=12, stride=12).shape[0] == 2


def test_threads(image):
    scores = [ready(NETWORKS["sums"](), image) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        maps = list(pool.map(lambda score: occlusion_map(score, image, window=12, stride=6), scores))
    for score, found in zip(scores, maps, strict=True):
        assert torch.allclose(
            found, occlusion_map(lambda x, s=score: s(x), image, window=12, stride=6), atol=1e-6
        )
        assert any(isinstance(key, tuple) and kept[0] for key, kept in covered._traced[id(score)].items())


def test_circular_padding_takes_the_plain_way(caplog, image):
    score = ready(Pooled(conv(3, 8, 3), nn.ReLU(), conv(8, 8, 3, padding=1, padding_mode="circular")), image)
    assert "cannot be traced (ValueError)" in way(caplog, score, image)
    assert_same(score, image)


def test_nan_of_the_fast_way_alone_is_found_out(caplog, image, monkeypatch):
    score = ready(NETWORKS["convolutions"](), image)
    wanted = covered_one_by_one(score, image, 12, 6)
    for bad in (float("nan"), float("inf")):
        monkeypatch.setattr(
            LocalScore, "__call__", lambda self, _patches, some, bad=bad: torch.full((self.n, 2), bad)
        )
        found = occlusion_map(score, image, window=12, stride=6)
        assert (found - wanted).abs().max() < 1e-4 * (wanted.max() - wanted.min())
    assert caplog.text.count("fast way gives NaN or infinity") == 2


def test_bytes_of_a_convolution_count_the_librarys_copies():
    layer, n = nn.Conv2d(3, 5, 1, bias=False).eval(), 4 * (3 + 5) * 16 * 16
    score = lambda x: layer(x).mean((1, 2, 3))  # noqa: E731
    assert memory.bytes_for_one(score, torch.rand(3, 16, 16)) == pytest.approx(2 * n, abs=8)
