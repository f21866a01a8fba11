"""Comparison of directions at equal dose: closed forms on a generator whose pictures are linear in z; the arms."""

import numpy as np
import pandas as pd
import pytest
import torch
from block_world import Blocks, Pixels
from torch import nn

from brainedit.arms import judge_direction, random_directions, shuffled_directions
from brainedit.attributes import face_attributes
from brainedit.comparison import compare, judge_scores
from brainedit.comparison_tables import ArmResult, Comparison
from brainedit.directions import Direction, prior_scale
from brainedit.generators.load import load_generator
from brainedit.generators.stylegan2 import StyleGAN2
from brainedit.judges import judge
from brainedit.strengths import IdentityLoss


def read(images):
    """z of the pictures of `Blocks`, exactly, for as long as no pixel is clipped."""
    return ((images[:, :, 4::8, 4::8] - 0.5) / 0.05).flatten(1).double()


def scores(images):
    z = read(images)
    return pd.DataFrame({"a": z[:, 0], "b": 2 * z[:, 1], "c": z[:, 2] - 0.1 * z.square().sum(1)})


@pytest.fixture(scope="module")
def blocks():
    return Blocks(resolution=16, channels=(12, 8, 8, 8), z_dim=12).requires_grad_(False)


def axis(*weights, name="", scale=1.0):
    vector = np.zeros(12)
    vector[: len(weights)] = weights
    return Direction(vector / np.linalg.norm(vector), "z", scale, name)


ARMS = {
    "good": axis(1, scale=0.1),
    "slanted": axis(3, 4, scale=7.0),
    "nothing": [axis(0, 0, 0, *np.eye(9)[i]) for i in range(6)],
}
SETTINGS = {"wanted": "a", "scores": scores, "space": "z", "identity": Pixels(), "progress": False}


@pytest.fixture(scope="module")
def spread(blocks):
    """The population's standard deviations, from the same samples as the comparison's."""
    images = blocks.synthesize(blocks.sample(300, seed=101), space="z")
    return scores(images).std()


@pytest.fixture(scope="module")
def found(blocks):
    latents = blocks.sample(10, seed=5)
    return compare(blocks, latents, ARMS, steps=[1, 2, 4], n_per_draw=4, n_population=300, **SETTINGS)


def test_faces_that_are_not_kept_are_made_again(blocks, found, monkeypatch):
    monkeypatch.setattr("brainedit.comparison._KEPT_PIXELS", 0)
    latents = blocks.sample(10, seed=5)
    again = compare(blocks, latents, ARMS, steps=[1, 2, 4], n_per_draw=4, n_population=300, **SETTINGS)
    pd.testing.assert_frame_equal(again.curves(), found.curves())


def row(table, arm, step):
    return table[(table["arm"] == arm) & (table["step"] == step)].iloc[0]


# closed forms


def test_steps_are_equal_whatever_the_scales(found, spread):
    curves = found.curves()
    for arm, slope in {"good": 1.0, "slanted": 0.6, "nothing": 0.0}.items():
        for step in (0, 1, 2, 4):
            at = row(curves, arm, step)
            assert at["mahalanobis"] == pytest.approx(step, abs=1e-4)
            assert at["change"] == pytest.approx(slope * step / spread["a"], abs=1e-4)
            assert at["low"] - 1e-4 <= at["change"] <= at["high"] + 1e-4
    assert row(curves, "good", 1)["n_units"] == 10
    assert row(curves, "nothing", 1)["n_units"] == 6


def test_what_both_ways_have_in_common_is_drift_not_change(blocks, spread):
    """c falls by .1 s^2 along any step, and by .2 s z.v, whose mean over faces is not 0."""
    latents = blocks.sample(10, seed=5)
    other = {**SETTINGS, "wanted": "c"}
    arms = {"first": axis(1), "c": axis(0, 0, 1)}
    both = compare(blocks, latents, arms, steps=[2], n_population=300, **other).curves()
    ahead = compare(blocks, latents, arms, steps=[2], n_population=300, both_ways=False, **other).curves()
    mean = latents.double().mean(0).numpy()
    tilt = -0.2 * 2 * mean / spread["c"]
    for arm, place, slope in (("first", 0, 0), ("c", 2, 2 / spread["c"])):
        assert row(both, arm, 2)["drift"] == pytest.approx(-0.4 / spread["c"], abs=1e-3)
        assert row(both, arm, 2)["change"] == pytest.approx(slope + tilt[place], abs=1e-3)
        assert row(ahead, arm, 2)["change"] == pytest.approx(
            slope + tilt[place] - 0.4 / spread["c"], abs=1e-3
        )
        assert row(ahead, arm, 2)["drift"] == 0


def test_rescoring_dependency_and_selectivity(blocks, spread):
    flat = lambda images: scores(images)[["a", "b"]]  # noqa: E731
    settings = {**SETTINGS, "scores": flat}
    found = compare(blocks, blocks.sample(6, seed=5), ARMS, steps=[2, 4], n_population=300, **settings)
    table = found.rescoring(3.0)
    b = 2 * 0.8 * 3 / spread["b"]
    assert table.loc["slanted"].tolist() == pytest.approx([0.6 * 3 / spread["a"], b], abs=1e-4)
    assert table.loc["good", "b"] == pytest.approx(0, abs=1e-5)
    at = found.matched("step", 3.0).loc["slanted"]
    assert at["dependency_mean"] == at["dependency_max"] == pytest.approx(b, abs=1e-4)
    assert at["selectivity"] == pytest.approx(0.6 * 3 / spread["a"] / b, abs=1e-3)
    with pytest.raises(ValueError, match="from 0 to 4; got 5"):
        found.rescoring(5)


def test_at_equal_identity_loss(blocks, found, spread):
    """The loss is (.05 s)^2 / 12 over that of strangers for every direction: equal loss is an equal step."""
    strangers = IdentityLoss(blocks, Pixels()).strangers
    table = found.matched("identity_loss", (0.05 * 4) ** 2 / 12 / strangers - 1e-6)
    np.testing.assert_allclose(table["step"].astype(float), 4, atol=1e-2)
    assert table.loc["slanted", "change"] == pytest.approx(0.6 * 4 / spread["a"], rel=1e-2)
    beyond = found.matched("identity_loss", (0.05 * 5) ** 2 / 12 / strangers)
    assert beyond.drop(columns=["low", "high"]).isna().all(axis=None)  # never from beyond the curve


def test_at_equal_change(found, spread):
    table = found.matched("change", 1.5)
    assert table.loc["good", "step"] == pytest.approx(1.5 * spread["a"], rel=1e-3)
    assert table.loc["slanted", "step"] == pytest.approx(1.5 * spread["a"] / 0.6, rel=1e-3)
    assert np.isnan(table.loc["nothing", "step"])
    assert table.loc["slanted", "identity_loss"] > table.loc["good", "identity_loss"]


def test_ratios_are_those_of_the_changes(found):
    value, low, high = found.ratio("slanted", "good", "step", 4.0)
    assert (value, low, high) == pytest.approx((0.6, 0.6, 0.6), abs=1e-3)
    with pytest.raises(ValueError, match="Unknown arm 'goood'"):
        found.ratio("goood", "good", "step", 4.0)


def test_monotonicity(found):
    table = found.monotonicity()
    assert table.loc["good"].tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    assert abs(table.loc["nothing", "rank_correlation"]) < 0.9


def made(changes, **more):
    """A comparison of arms whose changes (n_rows, k) are given; the loss is the step."""
    arms = {}
    for name, values in changes.items():
        values = np.asarray(values, float)
        losses = np.tile([0.0, 1, 2], (len(values), 1))
        units = more.get("units", np.arange(len(values)))
        same = dict.fromkeys(("losses", "off_prior", "mahalanobis", "degrees"), losses)
        cube = values[..., None]
        arms[name] = ArmResult(changes=cube, sizes=np.abs(cube), drifts=0 * cube, units=units, **same)
    return Comparison(arms, np.array([0.0, 1, 2]), "a", ["a"])


def test_intervals_are_those_of_the_mean():
    values = np.random.default_rng(0).normal(1, 0.5, 400)
    table = made({"x": np.stack([0 * values, values, 2 * values], axis=1)}).curves()
    error = values.std() / 20
    at = row(table, "x", 1)
    assert at["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.35 * error)
    assert at["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.35 * error)
    assert "selectivity" not in table  # there is no other score


def test_draws_are_units_and_count_the_same():
    values = [[0, 1, 1]] * 9 + [[0, 3, 3]]
    table = made({"x": values}, units=np.array([0] * 9 + [1])).curves()
    assert row(table, "x", 1)["change"] == 2
    assert row(table, "x", 1)["n_units"] == 2
    assert (row(table, "x", 1)["low"], row(table, "x", 1)["high"]) == (1, 3)


def test_ratios_are_paired_over_faces():
    level = np.random.default_rng(0).normal(3, 1, 50)
    x = np.stack([0 * level, level, 2 * level], axis=1)
    value, low, high = made({"x": x, "half": x / 2}).ratio("half", "x", "step", 1)
    assert (value, low, high) == pytest.approx((0.5, 0.5, 0.5))


def test_faces_that_fall_back_are_not_rising():
    table = made({"x": [[0, 1, 2], [0, 2, 1]], "flat": [[0, 0, 0], [0, 0, 0]]}).monotonicity()
    assert table.loc["x", ["rising", "rank_correlation"]].tolist() == pytest.approx([0.5, 0.75])
    assert table.loc["flat", ["rising", "rank_correlation"]].tolist() == [0, 0]


def test_a_curve_that_may_not_reach_has_no_interval():
    faces = [[0, 0, 0]] * 10 + [[0, 1, 2]] * 10
    table = made({"x": faces}).matched("change", 0.9)
    assert table.loc["x", "step"] == pytest.approx(1.8)
    assert np.isnan(table.loc["x", "low"])


# spaces, units, KID


def test_units_of_the_step_in_w():
    kwargs = {"channel_base": 64, "channel_max": 8}
    generator = StyleGAN2(z_dim=8, w_dim=6, img_resolution=16, synthesis_kwargs=kwargs).requires_grad_(False)
    w = generator.sample(10_000, space="w").double().numpy()
    vectors = np.linalg.eigh(np.cov(w.T))[1].T
    arms = {f"axis {i}": Direction(vectors[i], "w", 3.0) for i in (0, 5)}
    settings = {**SETTINGS, "space": "w", "scores": lambda x: pd.DataFrame({"a": x.mean((1, 2, 3)).numpy()})}
    latents = generator.sample(4, space="w", seed=1)
    equal = compare(generator, latents, arms, steps=[1.0], unit="mahalanobis", **settings).curves()
    assert equal.loc[equal["step"] == 1, "mahalanobis"].tolist() == pytest.approx([1, 1], rel=1e-4)
    long = compare(generator, latents, arms, steps=[1.0], **settings).curves()
    deviation = np.sqrt(w.var(0, ddof=1).mean())
    wanted = [deviation / np.sqrt(np.linalg.eigvalsh(np.cov(w.T))[i]) for i in (0, 5)]
    assert long.loc[long["step"] == 1, "mahalanobis"].tolist() == pytest.approx(wanted, rel=1e-3)
    in_w_plus = compare(
        generator,
        latents[:, None].repeat(1, 6, 1),
        arms,
        steps=[1.0],
        **{**settings, "space": "w+"},
    ).curves()
    pd.testing.assert_series_equal(in_w_plus["change"], long["change"], atol=1e-4, rtol=1e-3)
    pd.testing.assert_series_equal(in_w_plus["mahalanobis"], long["mahalanobis"], rtol=1e-3)


class Encoder(nn.Module):
    """z of `Blocks` as features, with what `kid_features` needs of an encoder."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, images):
        return (images[:, :, 32::64, 32::64].flatten(1) - 0.5) / 0.05


def test_kid_grows_when_edits_leave_the_samples(blocks):
    latents = blocks.sample(200, seed=5)
    arms = {"good": axis(1), "many": [axis(1)] * 60}
    table = compare(blocks, latents, arms, steps=[1, 4], kid_encoder=Encoder(), **SETTINGS).curves()
    good, many = (table[table["arm"] == arm] for arm in arms)
    assert abs(good["kid"].iloc[0]) < 3 * good["kid_error"].iloc[0]
    assert good["kid"].iloc[2] > good["kid"].iloc[1] > good["kid"].iloc[0]
    # no face counts twice, however many draws move it
    np.testing.assert_allclose(good[["kid", "kid_error"]], many[["kid", "kid_error"]], rtol=1e-6)


# the arms


def test_shuffled_directions_point_nowhere():
    rng = np.random.default_rng(0)
    names = [f"{i}" for i in range(60)]
    latents = pd.DataFrame(rng.standard_normal((60, 12)), index=names)
    relevance = latents[0] + 0.1
    found = shuffled_directions(latents, relevance, space="z", progress=False)
    assert len(found) == 100
    cosines = np.array([direction.vector[0] for direction in found])
    assert abs(cosines.mean()) < 4 / np.sqrt(12 * 100)
    assert cosines.std() == pytest.approx(1 / np.sqrt(12), rel=0.3)
    again = shuffled_directions(latents, relevance, space="z", progress=False)
    assert all(np.array_equal(a.vector, b.vector) for a, b in zip(found, again, strict=True))
    with pytest.raises(ValueError, match="100 draws or more; got 20"):
        shuffled_directions(latents, relevance, space="z", n=20)


def test_arms_carry_the_scale_of_the_prior():
    faces = load_generator("faces")
    rng = np.random.default_rng(0)
    w = pd.DataFrame(faces.sample(40, space="w").numpy())
    relevance = pd.Series(rng.random(40))
    shuffled = shuffled_directions(w, relevance, space="w", generator=faces, progress=False)[7]
    random = random_directions(faces, space="w", n=3)[2]
    in_w_plus = random_directions(faces, space="w+", n=2)[1]
    for direction in (shuffled, random, in_w_plus):
        scale = prior_scale(faces, direction.vector, direction.space)
        assert direction.scale == pytest.approx(scale, rel=1e-6)
        assert direction.provenance["generator_sha256"] == faces.sha256
    assert (in_w_plus.vector == in_w_plus.vector[0]).all()
    with pytest.raises(ValueError, match="1 or more random directions; got 0"):
        random_directions(faces, space="w", n=0)


def test_a_judges_direction_beats_random_ones_on_faces():
    faces, reads = load_generator("faces"), face_attributes()
    column = reads.names.index("hair_colour")
    found = judge_direction(faces, lambda x: reads(x)[:, column], space="w", name="hair_colour", n=150)
    arms = {"judge": found, "random": random_directions(faces, space="w", n=4, seed=3)}
    settings = {**SETTINGS, "wanted": "hair_colour", "scores": reads.table, "space": "w"}
    table = compare(
        faces,
        faces.sample(6, space="w", seed=9),
        arms,
        steps=[4.0],
        n_per_draw=2,
        n_population=100,
        **settings,
    ).matched("step", 4.0)
    assert table.loc["judge", "low"] > max(1.0, table.loc["random", "high"])
    assert table.loc["judge", "selectivity"] > 2


def test_judges_make_a_table():
    images = torch.rand(3, 3, 16, 16)
    table = judge_scores({"dark": judge("darkness"), "hair": judge("hair_darkness")})(images)
    assert list(table) == ["dark", "hair"]
    np.testing.assert_allclose(table["dark"], judge("darkness").score(images))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": [2, 1]}, r"above 0, rising; got \[2\.0, 1\.0\]"),
        ({"steps": [0, 1]}, r"above 0, rising; got \[0\.0, 1\.0\]"),
        ({"steps": [float("nan")]}, "rising; got .*nan"),
        ({"steps": []}, r"rising; got \[\]"),
        ({"arms": {"empty": []}}, "one direction or more; got none for 'empty'"),
        ({"arms": {}}, "got none for 'any'"),
        ({"wanted": "smile"}, "no column 'smile'; they have a, b, c"),
        ({"unit": "pixels"}, "Unknown unit 'pixels'"),
        ({"path": "great_circle"}, "pggan in 'z' has none"),
        ({"kid_encoder": Encoder()}, "20 faces or more; 'good' moves 2"),
        ({"n_per_draw": 0}, "got 0, 1000 and 500"),
        (
            {"scores": lambda x: pd.DataFrame({"a": np.zeros(len(x))})},
            "score 'a' is the same for all samples",
        ),
        ({"arms": {"w": Direction(np.eye(12)[0], "w", 1.0, "w")}}, "lives in 'w' and cannot move 'z'"),
    ],
)
def test_comparisons_that_make_no_sense(blocks, settings, message):
    settings = {"arms": {"good": axis(1)}, "steps": [1.0], **SETTINGS, **settings}
    with pytest.raises(ValueError, match=message):
        compare(blocks, blocks.sample(2), settings.pop("arms"), **settings)


def test_matches_that_make_no_sense(found):
    with pytest.raises(ValueError, match="Unknown thing to match 'loss'"):
        found.matched("loss", 1)
    with pytest.raises(ValueError, match="level above 0; got -1"):
        found.matched("change", -1)
    with pytest.raises(ValueError, match="steps end at 4; got 5"):
        found.matched("step", 5)
