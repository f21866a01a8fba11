"""Training generators on pictures: the pieces against closed forms, runs that are killed, what a user can get wrong."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from brainedit.adversarial.ada import StyleGAN2ADA, path_lengths, r1_penalty
from brainedit.adversarial.augment import AdaptiveAugment, weak_augment
from brainedit.adversarial.checkpoint import load_checkpoint, save_checkpoint
from brainedit.adversarial.discriminators import FrozenFeatures, ProjectedDiscriminator
from brainedit.adversarial.kid import kid
from brainedit.adversarial.pictures import Pictures, read_pictures
from brainedit.adversarial.projected import PictureCode, Projected
from brainedit.adversarial.residual import StyleGAN2Discriminator, batch_spread
from brainedit.adversarial.train import _average, _order, train_generator
from brainedit.generators.load import load_generator, save_generator
from brainedit.generators.stylegan2 import StyleGAN2
from brainedit.jobs.generator import train

TINY = {
    "z_dim": 4,
    "w_dim": 8,
    "mapping_kwargs": {"num_layers": 1},
    "synthesis_kwargs": {"channel_base": 128, "channel_max": 8},
}
PROJECTED = {"weights": "random", "width": 8, "feature_size": 32, "warmup": 4}
ADA = {"channel_base": 128, "channel_max": 8, "r1_every": 2, "path_every": 2, "adjust_over": 40}


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (80, 3, 16, 16), dtype=np.uint8)
    return Pictures(images, [f"{i}.png" for i in range(80)])


@pytest.fixture(scope="module")
def labelled(pictures):
    return Pictures(
        pictures.images, pictures.names, np.eye(2, dtype=np.float32)[np.arange(80) % 2], ("a", "b")
    )


def _run(pictures, method, options, **settings):
    settings = {"n_pictures": 16, "batch_size": 4, "network": TINY, "progress": False} | settings
    return train_generator(pictures, method=method, options=options, **settings)


def _differences(a, b):
    return [k for k, v in a.state_dict().items() if not torch.equal(v, b.state_dict()[k])]


# a run


@pytest.mark.parametrize(("method", "options"), [("projected", PROJECTED), ("stylegan2-ada", ADA)])
def test_killed_run_ends_with_same_weights(pictures, tmp_path, method, options):
    whole = _run(pictures, method, options, mirror=True)
    file = tmp_path / "run.safetensors"
    first = _run(pictures, method, options, mirror=True, checkpoint=file, n_pictures=8)
    resumed = _run(pictures, method, options, mirror=True, checkpoint=file)
    assert _differences(first, whole)
    assert _differences(resumed, whole) == []


def test_checkpoint_of_other_settings_or_pictures_is_refused(pictures, tmp_path):
    file = tmp_path / "run.safetensors"
    _run(pictures, "projected", PROJECTED, checkpoint=file, n_pictures=4)
    with pytest.raises(ValueError, match="its batch_size is 4, now it is 8"):
        _run(pictures, "projected", PROJECTED, checkpoint=file, batch_size=8)
    other = Pictures(255 - pictures.images, pictures.names)
    with pytest.raises(ValueError, match="its pictures is"):
        _run(other, "projected", PROJECTED, checkpoint=file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"run\.safetensors cannot be continued"):
        _run(pictures, "projected", PROJECTED, checkpoint=file)


@pytest.mark.parametrize(("method", "options"), [("projected", PROJECTED), ("stylegan2-ada", ADA)])
def test_condition_reaches_generator_and_discriminator(labelled, method, options):
    generator = _run(labelled, method, options)
    z, labels = torch.randn(2, 4), torch.eye(2)
    w = generator.map(z, labels=labels)
    assert generator.c_dim == 2
    assert not torch.equal(w, generator.map(z, labels=labels.flip(0)))


def test_reconstruction_learns_the_picture(pictures):
    colours = np.repeat(np.arange(80, dtype=np.uint8)[:, None] * 3, 3, 1)[:, :, None, None]
    flat = Pictures(np.broadcast_to(colours, (80, 3, 16, 16)).copy(), pictures.names)
    options = PROJECTED | {"warmup": 10**6, "fidelity": 1.0}
    log = []
    for n in (16, 200):
        generator = _run(flat, "projected", options, n_pictures=n, batch_size=8, average_over=20)
        spread = generator.synthesize(generator.sample(64), space="z").mean((1, 2, 3)).std()
        log.append(abs(spread.item() - flat.images[:, 0, 0, 0].std() / 255))
    assert log[1] < 0.6 * log[0]


def test_rates_fall_with_the_root_of_what_was_seen(pictures):
    generator = StyleGAN2(img_resolution=16, **TINY)
    options = PROJECTED | {"generator_rate": 0.1, "decay_after": 4, "warmup": 0}
    trainer = Projected(generator, torch.rand(16, 3, 16, 16), **options)
    rates = []
    for _ in range(5):
        trainer.step(torch.rand(4, 3, 16, 16), None)
        rates.append(trainer.optimizers["generator"].param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.1, 0.1 / math.sqrt(2), 0.1 / math.sqrt(3), 0.05])


def test_start_from_a_saved_generator(pictures, tmp_path):
    saved = StyleGAN2(img_resolution=16, seed=5, **TINY)
    save_generator(saved, tmp_path / "g")
    options = PROJECTED | {"generator_rate": 0.0}
    same = _run(pictures, "projected", options, start_from=str(tmp_path / "g"), n_pictures=4)
    assert set(_differences(same, saved)) <= {"mapping.w_avg"}
    large = Pictures(pictures.images.repeat(2, axis=2).repeat(2, axis=3), pictures.names)
    with pytest.raises(ValueError, match=r"makes pictures of 16 pixels .* have 32 pixels"):
        _run(large, "projected", PROJECTED, start_from=str(tmp_path / "g"))


def test_divergence_is_told(pictures):
    with pytest.raises(ValueError, match=r"diverged at .* pictures: its loss is nan"):
        _run(pictures, "projected", PROJECTED | {"generator_rate": 1e30})


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"method": "dcgan"}, "dcgan"),
        ({"batch_size": 41}, "batch_size must be 2 to half of the 80 pictures; got 41"),
        ({"n_pictures": 0}, "n_pictures must be 1 or more; got 0"),
        ({"options": {"colour": 1}}, "options do not fit method 'projected'.*colour"),
        ({"network": {"zdim": 4}}, "`network` do not make a generator.*zdim"),
    ],
)
def test_settings_that_do_not_fit(pictures, settings, match):
    settings = {"n_pictures": 4, "network": TINY, "options": PROJECTED, "progress": False} | settings
    with pytest.raises(ValueError, match=match):
        train_generator(pictures, **settings)


def test_each_pass_shows_every_picture_once_whatever_the_batch():
    seen = np.concatenate([_order(10, start, 4, seed=3) for start in range(0, 40, 4)])
    assert (np.sort(seen.reshape(4, 10), 1) == np.arange(10)).all()
    assert (seen[:30] == _order(10, 0, 30, seed=3)).all()
    assert (seen[:10] != seen[10:20]).any()


def test_average_has_its_half_life():
    class Trainer:
        seen = 10**6
        live, old = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
        averages = {"net": old}  # noqa: RUF012

        def modules(self):
            return {"net": self.live}

    trainer = Trainer()
    with torch.no_grad():
        trainer.old.weight.fill_(0.0)
        trainer.live.weight.fill_(1.0)
    for _ in range(10):
        _average(trainer, half_life=100, batch_size=10)
    assert trainer.old.weight.item() == pytest.approx(0.5, abs=1e-5)


# losses


def test_r1_of_a_linear_discriminator():
    slope = torch.randn(3, 4, 4)
    real = torch.randn(5, 3, 4, 4, requires_grad=True)
    assert r1_penalty((real * slope).sum((1, 2, 3)), real).item() == pytest.approx(
        slope.square().sum().item(), rel=1e-5
    )


def test_path_length_of_a_linear_generator():
    # each of 3 x 8 x 8 pixels is the sum of both layers' latents of one coordinate: length |noise| sqrt(d) by place
    w = torch.randn(2000, 2, 1, requires_grad=True)
    fake = w.sum((1, 2))[:, None, None, None].expand(-1, 3, 8, 8)
    expected = math.sqrt(3) * math.sqrt(2 / math.pi)  # E|N(0, 3)|
    assert path_lengths(fake, w).mean().item() == pytest.approx(expected, rel=0.06)


def test_batch_spread_is_the_mean_deviation_in_each_group():
    x = torch.randn(8, 3, 4, 4)
    got = batch_spread(x, 4)
    for i in range(2):
        expected = x[i::2].std(0, correction=0).mean()
        assert torch.allclose(got[i::2], expected.expand(4, 1, 4, 4), atol=1e-5)


def test_residual_discriminator_is_differentiable_twice_and_reads_the_condition():
    net = StyleGAN2Discriminator(size=16, c_dim=2, channel_base=128, channel_max=8)
    real = torch.randn(4, 3, 16, 16, requires_grad=True)
    logits = net(real, torch.eye(2).repeat(2, 1))
    assert logits.shape == (4,)
    assert not torch.allclose(logits, net(real, torch.eye(2).flip(0).repeat(2, 1)))
    r1_penalty(logits, real).backward()
    assert net.from_rgb.weight.grad.abs().sum() > 0


def test_adaptive_augmentation_steers_to_its_target(pictures):
    generator = StyleGAN2(img_resolution=16, **TINY)
    trainer = StyleGAN2ADA(generator, torch.zeros(4, 3, 16, 16), **ADA | {"adjust_over": 8}, target=-1.1)
    real = torch.rand(4, 3, 16, 16)
    rows = [trainer.step(real, None)["augment"] for _ in range(3)]  # the sign is always above the target
    assert rows == [0.5, 1.0, 1.0]


# frozen features


def test_features_are_calibrated_frozen_and_pass_gradients():
    features = FrozenFeatures(size=32, width=8)
    real = torch.rand(16, 3, 16, 16) * 2 - 1
    features.calibrate(real)
    maps = features(real.requires_grad_(True))
    assert [x.shape[-1] for x in maps] == features.map_sizes == [8, 4, 2, 1]
    for x in maps:
        assert x.mean((0, 2, 3)).abs().max() < 1e-3
        assert (x.var((0, 2, 3)) - 1).abs().max() < 1e-2
    assert not any(p.requires_grad for p in features.parameters())
    sum(x.square().sum() for x in maps).backward()
    assert real.grad.abs().sum() > 0


def test_projected_heads_read_the_condition():
    heads = ProjectedDiscriminator([8, 4, 2, 1], width=8, c_dim=2).eval()
    maps = [torch.randn(4, 8, s, s) for s in (8, 4, 2, 1)]
    one = torch.eye(2).repeat(2, 1)
    assert heads(maps, one).shape == (4, 4)
    assert not torch.allclose(heads(maps, one), heads(maps, one.flip(0)))


def test_code_is_white_and_tells_planted_factors():
    factors, patterns = torch.randn(400, 2), torch.randn(2, 3, 16, 16)
    images = torch.einsum("nk,kchw->nchw", factors, patterns) * 0.1
    maps = [torch.zeros(400, 4, s, s) for s in (4, 4, 4, 2)]
    code = PictureCode(maps, images, z_dim=2, fidelity=0.9)
    z = code(maps, images)
    assert torch.allclose(z.T @ z / len(z), torch.eye(2), atol=1e-3)
    weights = torch.linalg.lstsq(z, factors - factors.mean(0)).solution
    assert (z @ weights - factors + factors.mean(0)).abs().max() < 1e-2
    drawn = torch.cat([code.draw(maps, images) for _ in range(20)])
    assert torch.allclose(drawn.var(0), torch.ones(2), atol=0.05)


def test_code_of_few_pictures_leaves_coordinates_to_noise():
    images = torch.rand(16, 3, 16, 16)
    maps = [torch.rand(16, 4, s, s) for s in (4, 4, 4, 2)]
    code = PictureCode(maps, images, z_dim=5)
    assert (code(maps, images)[:, 2:] == 0).all()
    assert code.draw(maps, images)[:, 2:].std() > 0.5


# augmentation


def test_augmentation_is_none_at_probability_zero_and_passes_gradients():
    images = (torch.rand(8, 3, 16, 16) * 2 - 1).requires_grad_(True)
    assert AdaptiveAugment(0.0)(images) is images
    changed = AdaptiveAugment(1.0)(images)
    assert changed.shape == images.shape
    assert torch.isfinite(changed).all()
    changed.sum().backward()
    assert torch.isfinite(images.grad).all()


def test_each_part_of_the_augmentation_keeps_what_it_must():
    augment = AdaptiveAugment(1.0)
    geometry = augment._geometry(200, torch.device("cpu"))
    assert torch.equal(geometry[:, 2], torch.tensor([0.0, 0.0, 1.0]).expand(200, 3))
    grey = torch.tensor([1.0, 1.0, 1.0, 0.0])
    mapped = augment._color(200, torch.device("cpu")) @ grey
    # hue, saturation and contrast leave grey grey; only its lightness changes
    assert torch.allclose(mapped[:, :3], mapped[:, :1].expand(-1, 3), atol=1e-5)


def test_weak_augmentation_moves_by_whole_pixels():
    images = torch.zeros(50, 3, 16, 16)
    images[:, :, 8, 8] = 1.0
    moved = weak_augment(images, color=0.0, shift=0.125)
    assert set(moved.unique().tolist()) == {0.0, 1.0}
    assert (moved.sum((1, 2, 3)) == 3).all()
    places = moved[:, 0].flatten(1).argmax(1)
    rows, columns = places // 16, places % 16
    assert rows.min() >= 6
    assert rows.max() <= 10
    assert len(torch.unique(torch.stack([rows, columns]), dim=1).T) > 10


# the distance


def test_distance_agrees_with_the_sum_over_pairs():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    within = [np.mean([k(s[i], s[j]) for i in range(6) for j in range(6) if i != j]) for s in (x, y)]
    expected = sum(within) - 2 * np.mean([k(a, b) for a in x for b in y])
    assert kid(x, y, n_subsets=1).value == pytest.approx(expected, rel=1e-9)


def test_distance_is_unbiased_and_its_error_honest():
    rng = np.random.default_rng(1)
    z = []
    for _ in range(200):
        found = kid(rng.normal(size=(60, 4)), rng.normal(size=(60, 4)), n_subsets=6)
        z.append(found.value / found.standard_error)
    assert abs(np.mean(z)) < 0.3
    assert 0.8 < np.std(z) < 1.6  # Student's t with 5 degrees of freedom: 1.29
    far = kid(rng.normal(size=(60, 4)) + 1, rng.normal(size=(60, 4)), n_subsets=6)
    assert far.value > 3 * far.standard_error
    with pytest.raises(ValueError, match="at least 20 pictures on each side; 60 and 19 came"):
        kid(np.zeros((60, 4)), np.zeros((19, 4)))


# pictures


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(2)
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    for i in range(70):
        array = rng.integers(0, 256, (20, 20 + i % 3, 3), dtype=np.uint8)
        where = tmp_path / "pictures" / ("more" if i % 2 else "")
        Image.fromarray(array).save(where / f"{i:02d}.{'png' if i % 5 else 'jpg'}")
    return tmp_path / "pictures"


def test_pictures_are_cropped_to_the_central_square(folder):
    stripes = np.zeros((16, 48, 3), np.uint8)
    stripes[:, 16:32] = (10, 200, 30)
    Image.fromarray(stripes).save(folder / "stripes.png")
    found = read_pictures(folder, size=16, progress=False)
    image, condition = found[list(found.names).index("stripes.png")]
    assert len(found) == 71
    assert (image == np.array([10, 200, 30])[:, None, None]).all()
    assert condition is None
    again = read_pictures(folder, size=16, progress=False)
    assert isinstance(again.images, np.memmap)
    assert (again.images == found.images).all()


def test_labels_become_classes_and_numbers(folder, tmp_path):
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*"))
    rows = [(name, "cat" if i % 2 else "ant", i / 10) for i, name in enumerate(names)]
    table = tmp_path / "labels.csv"

    def write(lines):
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([("file", "kind", "age"), *lines])

    write(reversed(rows))
    found = read_pictures(folder, size=16, labels=table, progress=False)
    by_name = dict(zip(found.names, found.condition.tolist(), strict=True))
    assert list(found.columns) == ["age", "kind=ant", "kind=cat"]
    assert by_name[names[3]] == pytest.approx([0.3, 0.0, 1.0])
    write(rows[1:])
    with pytest.raises(ValueError, match=f"no label for '{names[0]}' and 0 more"):
        read_pictures(folder, size=16, labels=table, progress=False)
    write([*rows, rows[4]])
    with pytest.raises(ValueError, match=f"names '{names[4]}' twice"):
        read_pictures(folder, size=16, labels=table, progress=False)
    write([(names[0], "", 1.0), *rows[1:]])
    with pytest.raises(ValueError, match=f"empty label for '{names[0]}'"):
        read_pictures(folder, size=16, labels=table, progress=False)


def test_what_a_folder_can_lack(folder):
    with pytest.raises(ValueError, match="power of 2 from 8 up; got 48"):
        read_pictures(folder, size=48)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_pictures(folder / "nowhere", size=16)
    (folder / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.png is no picture"):
        read_pictures(folder, size=16, progress=False)
    for file in list(folder.rglob("*.png")):
        file.unlink()
    with pytest.raises(ValueError, match=r"at least 64 pictures; .* holds 14"):
        read_pictures(folder, size=16)


def test_content_decides_what_is_held_out(pictures):
    train_part, held_out = pictures.split(0.2)
    doubled = Pictures(np.concatenate([pictures.images] * 2), [f"{i}" for i in range(160)])
    _, held_twice = doubled.split(0.2)
    assert np.sort(np.concatenate([train_part, held_out])).tolist() == list(range(80))
    assert held_twice.tolist() == [*held_out, *held_out + 80]
    assert 8 <= len(held_out) <= 30
    assert len(pictures.split(0.0)[1]) == 8


def test_pictures_that_do_not_fit(pictures):
    with pytest.raises(ValueError, match=r"float64 \(80, 3, 16, 16\) came"):
        Pictures(pictures.images.astype(float), pictures.names)
    with pytest.raises(ValueError, match="as many names; 79 came"):
        Pictures(pictures.images, pictures.names[1:])
    condition = np.zeros((80, 2), np.float32)
    condition[7, 1] = np.nan
    with pytest.raises(ValueError, match=r"that of '7\.png' is not"):
        Pictures(pictures.images, pictures.names, condition)
    few = pictures.subset(np.arange(63))
    with pytest.raises(ValueError, match="at least 64 pictures; 63 came"):
        _run(few, "projected", PROJECTED)


# checkpoint and job


def test_checkpoint_keeps_modules_moments_and_state(tmp_path):
    def make():
        net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        return net, torch.optim.Adam(net.parameters(), lr=0.1)

    net, optimizer = make()
    net(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    file = tmp_path / "c.safetensors"
    save_checkpoint(file, {"n": net}, {"o": optimizer}, identity={"a": 1}, state={"seen": 5})
    other, fresh = make()
    assert load_checkpoint(file, {"n": other}, {"o": fresh}, identity={"a": 1}) == {"seen": 5}
    assert _differences(net, other) == []
    for one, two in zip(optimizer.state.values(), fresh.state.values(), strict=True):
        assert all(torch.equal(one[key], two[key]) for key in ("step", "exp_avg", "exp_avg_sq"))
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_job_writes_trains_on_and_refuses(folder, tmp_path):
    settings = {"network": TINY, "options": PROJECTED, "batch_size": 4, "progress": False, "held_out": 0.4}
    settings |= {"evaluate_every": 16, "name": "own", "picture_settings": {"size": 16}}
    out = train(folder, tmp_path / "out", n_pictures=16, **settings)
    record = json.loads((out / "result.json").read_text())
    assert record["figures"]["pictures_shown"] == 16
    assert np.isfinite(record["figures"]["kid"]["kid"])
    assert "Samples" in (out / "report.html").read_text()
    generator = load_generator(out / "generator")
    assert generator.sha256 == record["figures"]["generator_sha256"]
    with pytest.raises(ValueError, match="out holds an older result"):
        train(folder, out, n_pictures=32, **settings)
    train(folder, out, n_pictures=32, overwrite=True, **settings)
    log = (out / "progress" / "kid.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in log[1:]] == ["16", "32"]
    assert not list(tmp_path.glob("out.*"))
