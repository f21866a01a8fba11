"""The fit loop: a killed run ends like one that was not, damaged checkpoints are told, randomness is local.

As a script it trains in child processes, and kills them.
"""

import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from brainedit import training
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
            lambda x: model(x).sum() * 0 + bad,
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


def run_tracked(values, **settings):
    """A run whose validation values are planted, and the weights after each epoch."""
    model, weights, values = make_model(), [], iter(values)

    def validate():
        assert not model.training
        assert not torch.is_grad_enabled()
        weights.append({key: value.clone() for key, value in model.state_dict().items()})
        return next(values)

    history = run(model, make_batches(), validate=validate, **settings)
    return model, history, weights


@pytest.mark.parametrize(
    ("values", "best"), [([5, 3, 1, 4, 2, 6], 2), ([2, 1, 3, 1, 3, 1], 1), ([6, 5, 4, 3, 2, 1], 5)]
)
def test_the_best_epoch_by_validation_is_kept(values, best):
    model, history, weights = run_tracked(values, keep="best")
    assert history.validation == values
    assert history.best == best  # the first of equals
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[best][name]), name
    assert not model.training


def test_without_keep_validation_changes_nothing():
    watched, history, _ = run_tracked([1, 2, 3, 4, 5, 6])
    alone = make_model()
    assert run(alone, make_batches()) == history
    assert_same(watched, alone)


def test_history_without_validation_is_a_plain_list():
    history = run(make_model(), make_batches())
    assert isinstance(history, list)
    assert history.validation == []
    assert history.best is None


def test_keep_best_needs_validation():
    with pytest.raises(ValueError, match="keep='best' needs `validate`"):
        run(make_model(), make_batches(), keep="best")


def test_a_validation_value_that_is_no_number_is_told():
    with pytest.raises(ValueError, match="validation value became nan"):
        run_tracked([1.0, float("nan")], keep="best")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "step"}, "Unknown schedule 'step'.*constant, cosine"),
        ({"keep": "first"}, "Unknown keep 'first'"),
        ({"precision": "half"}, "Unknown precision 'half'"),
        ({"warmup": 6}, "less than n_epochs, got 6 of 6"),
        ({"warmup": -1}, "less than n_epochs, got -1 of 6"),
        ({"clip": 0}, "above 0, or None for none, got 0"),
        ({"clip": float("nan")}, "got nan"),
    ],
)
def test_settings_that_cannot_be_are_told(settings, message):
    with pytest.raises(ValueError, match=message):
        run(make_model(), make_batches(), **settings)


@pytest.mark.parametrize(
    ("setting", "value"), [("schedule", "constant"), ("warmup", 1), ("clip", 1.0), ("precision", "bfloat16")]
)
def test_new_settings_make_another_run_too(half_done, setting, value):
    with pytest.raises(ValueError, match=rf"its {setting} is .*, now it is {value}"):
        run(make_model(), make_batches(), half_done, **{setting: value})


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"schedule": "constant"}, [1, 1, 1, 1, 1]),
        ({"schedule": "constant", "warmup": 3}, [0.25, 0.5, 0.75, 1, 1]),
        ({"warmup": 1}, [0.5, 1, 0.853553, 0.5, 0.146447]),  # half a cosine over the four that remain
    ],
)
def test_the_learning_rate_follows_its_schedule(settings, wanted):
    """Adam steps by the rate where all gradients are the same."""
    model, weights = nn.Linear(1, 1, bias=False), []

    def batches(generator):
        weights.append(model.weight.item())
        yield (torch.ones(1, 1),)

    fit(model, lambda x: model(x).sum(), batches, n_epochs=5, weight_decay=0, progress=False, **settings)
    steps = [a - b for a, b in zip(weights, [*weights[1:], model.weight.item()], strict=True)]
    assert steps == pytest.approx([1e-3 * part for part in wanted], rel=1e-3)


def test_vectors_can_stay_out_of_the_weight_decay():
    model = nn.Linear(3, 3)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    settings = {"n_epochs": 1, "learning_rate": 0.1, "weight_decay": 0.5, "progress": False}
    fit(model, lambda x: model(x).sum() * 0, lambda _: [(torch.ones(1, 3),)], decay_vectors=False, **settings)
    torch.testing.assert_close(model.weight, before["weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(model.bias, before["bias"])
    fit(model, lambda x: model(x).sum() * 0, lambda _: [(torch.ones(1, 3),)], **settings)
    torch.testing.assert_close(model.bias, before["bias"] * (1 - 0.1 * 0.5))


def test_a_gradient_is_cut_to_its_largest_length():
    model, seen = nn.Linear(2, 1, bias=False), []

    def batches(generator):
        yield (torch.tensor([[30.0, 40.0]]),)
        seen.append(model.weight.grad.clone())

    fit(model, lambda x: model(x).sum(), batches, n_epochs=1, clip=5.0, progress=False)
    torch.testing.assert_close(seen[0], torch.tensor([[3.0, 4.0]]))


def test_bfloat16_is_of_the_forward_pass_only():
    model, kinds = nn.Linear(5, 2), []

    def loss(x, y):
        found = model(x)
        kinds.append(found.dtype)
        return nn.functional.mse_loss(found, y)

    settings = {"n_epochs": 40, "learning_rate": 0.05, "progress": False, "precision": "bfloat16"}
    history = fit(model, loss, lambda g: [(x := torch.randn(64, 5, generator=g), x[:, :2] * 0.5)], **settings)
    assert set(kinds) == {torch.bfloat16}
    assert model.weight.dtype == torch.float32
    assert history[-1] < 0.02 * history[0]


# killed with SIGKILL


def train_to_the_end(checkpoint, final, *, n_epochs=40):
    """Keeps the best epoch, which is in the middle; a few milliseconds an epoch."""
    model, x = make_model(), torch.randn(16, 5, generator=torch.Generator().manual_seed(1))

    epoch = []  # from its seed, since a resumed run begins in the middle

    def validate():
        return abs(epoch[-1] - 17) + model(x).mean().tanh().item() / 10

    def batches(generator):
        epoch.append(generator.initial_seed() - 4 * 1_000_003)
        return make_batches()(generator)

    history = run(model, batches, checkpoint, n_epochs=n_epochs, validate=validate, keep="best")
    assert history.best == 17
    save_file(model.state_dict() | {"history": torch.tensor([history, history.validation])}, final)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_writing(torn):
    """From now on a checkpoint is not finished: half its bytes are there, or it has not its name yet."""

    def half(tensors, path, metadata):
        save_file(tensors, path, metadata=metadata)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        die()

    if torn:
        training.save_file = half
    else:
        training.os.replace = lambda *_: die()


def in_child(work, *, kill_after=None, checkpoint=None):
    """Whether the work came to its end in a child process; killed some seconds after it wrote a checkpoint."""
    before = written_at(checkpoint)
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    ended = (0, 0)
    if kill_after is not None:
        while written_at(checkpoint) == before and ended[0] == 0:
            ended = os.waitpid(child, os.WNOHANG)
        time.sleep(kill_after)
        if ended[0] == 0:
            os.kill(child, signal.SIGKILL)
    status = (ended if ended[0] else os.waitpid(child, 0))[1]
    assert status in (0, signal.SIGKILL), status
    return status == 0


def written_at(path):
    return path.stat().st_mtime_ns if path is not None and path.exists() else None


def main(folder):
    torch.set_num_threads(1)
    run(make_model(), make_batches())  # the first optimiser imports for seconds, and every child would again
    assert in_child(lambda: train_to_the_end(None, folder / "unbroken.safetensors"))
    rng, checkpoint, final = random.Random(0), folder / "run.safetensors", folder / "killed.safetensors"

    def work():
        train_to_the_end(checkpoint, final)

    kills = 0
    for torn in (True, True, False, False):  # also while the file of an earlier kill lies there

        def work_torn(torn=torn):
            die_writing(torn)
            work()

        kills += not in_child(work_torn)
        kills += not in_child(work, kill_after=rng.uniform(0, 0.01), checkpoint=checkpoint)
    while not in_child(work, kill_after=rng.uniform(0, 0.03), checkpoint=checkpoint):
        kills += 1
    (folder / "kills").write_text(str(kills))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_moment_it_ends_with_the_same_weights(tmp_path):
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run(
        [sys.executable, __file__, str(tmp_path)], env=os.environ | settings, check=True, timeout=120
    )
    assert int((tmp_path / "kills").read_text()) >= 6
    unbroken, killed = (load_file(tmp_path / f"{name}.safetensors") for name in ("unbroken", "killed"))
    assert unbroken.keys() == killed.keys()
    for name, value in unbroken.items():
        assert torch.equal(value, killed[name]), name
    assert len(killed["history"][0]) == 40
    assert not list(tmp_path.glob("*.partial"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
