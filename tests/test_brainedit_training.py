"""The fit loop: a killed run ends like one that was not, damaged checkpoints are told, randomness is local."""

import math

import pytest
import torch
from torch import nn

from brainedit.training import fit


class Killed(Exception):
    pass


def make_model():
    torch.manual_seed(11)
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.GELU(), nn.Linear(16, 2))


def make_batches(*, kill_at=None, n_batches=3):
    """Random batches of the epoch's generator; raises at the start of epoch `kill_at`."""
    calls = []

    def batches(generator):
        if len(calls) == kill_at:
            raise Killed
        calls.append(1)
        for _ in range(n_batches):
            x = torch.randn(8, 5, generator=generator)
            yield x, x[:, :2] ** 2

    batches.calls = calls
    return batches


def run(model, batches, checkpoint=None, **settings):
    settings = {"n_epochs": 6, "learning_rate": 1e-2, "progress": False, "seed": 4} | settings

    def loss(x, y):
        return nn.functional.mse_loss(model(x), y)

    return fit(model, loss, batches, checkpoint=checkpoint, **settings)


def assert_same(first, second):
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.fixture
def half_done(tmp_path):
    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        run(make_model(), make_batches(kill_at=3), path)
    return path


@pytest.mark.filterwarnings("error")
def test_a_killed_run_ends_with_the_same_weights(half_done):
    whole, resumed, rest = make_model(), make_model(), make_batches()
    history = run(whole, make_batches())
    torch.manual_seed(999)  # another process has other global random numbers
    assert run(resumed, rest, half_done) == history
    assert len(rest.calls) == 3
    assert len(history) == 6
    assert_same(whole, resumed)
    assert not list(half_done.parent.glob("*.partial"))


def test_a_finished_run_is_not_run_again(tmp_path):
    path, first, second = tmp_path / "new" / "run.safetensors", make_model(), make_model()
    history = run(first, make_batches(), path)
    assert run(second, make_batches(kill_at=0), path) == history
    assert_same(first, second)
    assert not second.training


def test_same_seed_same_weights_and_another_seed_others():
    models = [make_model() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        run(model, make_batches(), seed=seed)
    assert_same(models[0], models[1])
    assert not torch.equal(models[0][0].weight, models[2][0].weight)


def test_the_history_is_the_mean_loss_of_each_epoch():
    model = nn.Linear(1, 1)
    values = iter([1.0, 3.0, 5.0, 7.0])
    history = fit(
        model,
        lambda x: model(x).sum() * 0 + next(values),
        lambda _: [(torch.ones(1, 1),)] * 2,
        n_epochs=2,
        progress=False,
    )
    assert history == [2.0, 6.0]


def test_training_lowers_the_loss_with_a_rate_that_falls_to_zero():
    model, weights = nn.Linear(5, 2), []

    def batches(generator):
        weights.append(model.weight.detach().clone())
        x = torch.randn(64, 5, generator=generator)
        yield x, x[:, :2] * 0.5

    history = run(model, batches, n_epochs=40, learning_rate=0.05)
    assert history[-1] < 0.02 * history[0]
    steps = [(b - a).abs().max().item() for a, b in zip(weights, [*weights[1:], model.weight], strict=True)]
    assert steps[0] == pytest.approx(0.05, rel=0.05)  # Adam's first step is the rate
    assert steps[-1] < 0.05 * (1 + math.cos(math.pi * 39 / 40)) / 2 * 1.5


def test_global_random_numbers_are_untouched(tmp_path):
    model = make_model()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    run(model, make_batches(), tmp_path / "run.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("keep", [0, 7, 300, -1])
def test_a_truncated_checkpoint_is_told(half_done, keep):
    half_done.write_bytes(half_done.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"checkpoint .*run\.safetensors cannot be continued .*delete it"):
        run(make_model(), make_batches(), half_done)


def test_a_checkpoint_of_another_network_is_told(half_done):
    with pytest.raises(
        ValueError, match=r"cannot be continued \(Error.* in loading .*; delete it to start anew\.$"
    ):
        run(nn.Sequential(nn.Linear(5, 2)), make_batches(), half_done)


@pytest.mark.parametrize(
    ("setting", "value"), [("seed", 5), ("n_epochs", 9), ("learning_rate", 1e-4), ("weight_decay", 0.5)]
)
def test_a_checkpoint_of_other_settings_is_not_taken_for_this_run(half_done, setting, value):
    with pytest.raises(ValueError, match=rf"its {setting} is .*, now it is {value}"):
        run(make_model(), make_batches(), half_done, **{setting: value})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_told(bad, tmp_path):
    model, path = nn.Linear(1, 1), tmp_path / "run.safetensors"
    with pytest.raises(ValueError, match=rf"The loss became {bad}; check the EEG's scale"):
        fit(
            model,
            lambda x: model(x).sum() * bad,
            lambda _: [(torch.ones(1, 1),)],
            n_epochs=2,
            checkpoint=path,
            progress=False,
        )
    assert not path.exists()


def test_an_epoch_without_batches_is_told():
    with pytest.raises(ValueError, match="without a single batch"):
        run(make_model(), make_batches(n_batches=0))


def test_parameters_outside_the_model_stay():
    frozen = nn.Linear(5, 5)
    before = frozen.weight.clone()
    model = make_model()
    fit(
        model,
        lambda x, y: nn.functional.mse_loss(model(frozen(x)), y),
        make_batches(),
        n_epochs=2,
        progress=False,
    )
    assert torch.equal(frozen.weight, before)
