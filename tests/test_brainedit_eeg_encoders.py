"""EEG encoders: the published sizes, small recordings, braindecode's networks by name, a layer per person."""

import builtins
import sys

import pytest
import torch
from torch import nn

from brainedit.encoders.eeg import CNN, LSTM, PersonInput, make_eeg_encoder


def n_parameters(module):
    return sum(p.numel() for p in module.parameters())


def lstm_parameters(n_in, n_hidden, n_layers):
    return sum(4 * n_hidden * ((n_hidden if i else n_in) + n_hidden + 2) for i in range(n_layers))


def test_the_lstm_of_eegstylegan_ada():
    encoder = LSTM(128, 440, 128, n_layers=4, bias=False)
    assert n_parameters(encoder) == lstm_parameters(128, 128, 4) + 128 * 128
    assert n_parameters(encoder) == pytest.approx(0.54e6, rel=0.03)  # as counted in their repository
    assert n_parameters(LSTM(128, 440, 128)) == lstm_parameters(128, 128, 1) + 128 * 128 + 128


def test_the_lstm_reads_the_top_layer_after_the_last_sample():
    encoder = LSTM(3, 10, 4, n_layers=2).eval()
    eeg = torch.randn(2, 3, 10)
    _, (hidden, _) = encoder.lstm(eeg.transpose(1, 2))
    assert torch.allclose(encoder(eeg), encoder.project(hidden[-1]), atol=1e-6)


def test_the_cnn_of_eegstylegan_ada():
    encoder = CNN(128, 440, 128)
    convolutions = [m for m in encoder.stages if isinstance(m, nn.Conv2d)]
    assert [c.stride for c in convolutions] == [(2, 2)] * 4
    assert n_parameters(encoder) == 9 * (128 + 128 * 256 + 256 * 512 + 512 * 1024) + 1024 * 128
    assert n_parameters(encoder) == pytest.approx(6.3e6, rel=0.01)
    with torch.no_grad():
        assert encoder.stages(torch.zeros(1, 1, 440, 128)).shape == (1, 1024, 28, 8)


@pytest.mark.parametrize("shape", [(1, 4), (1, 40), (2, 2), (8, 5), (17, 100), (63, 80)])
def test_the_cnn_tells_trials_of_small_recordings_apart(shape):
    """Instance normalisation of a map of one or two values would leave nothing of the EEG."""
    encoder = CNN(*shape, 8, widths=(8, 16, 16, 32)).eval()
    with torch.no_grad():
        embedding = encoder(torch.randn(20, *shape))
    assert (embedding.std(0) > 0.01 * embedding.abs().mean()).all()


def test_a_recording_too_small_for_the_cnn_is_told():
    with pytest.raises(ValueError, match="1 channels x 3 samples"):
        CNN(1, 3, 8)


def test_linear_is_one_affine_map():
    encoder = make_eeg_encoder("linear", n_channels=3, n_times=5, n_dims=2)
    a, b = torch.randn(2, 4, 3, 5)
    middle = encoder(0.3 * a + 0.7 * b)
    assert torch.allclose(middle, 0.3 * encoder(a) + 0.7 * encoder(b), atol=1e-6)
    assert n_parameters(encoder) == 2 * (15 + 1)


def test_settings_reach_the_encoder_and_the_rate_is_no_hindrance():
    encoder = make_eeg_encoder("lstm", n_channels=3, n_times=5, n_dims=2, sfreq=50.0, n_layers=3)
    assert encoder.lstm.num_layers == 3


# braindecode


@pytest.fixture(scope="module")
def _braindecode():
    pytest.importorskip("braindecode")


@pytest.mark.usefixtures("_braindecode")
@pytest.mark.parametrize("name", ["EEGNet", "ShallowFBCSPNet", "EEGConformer"])
def test_braindecodes_networks_by_name(name):
    size = {"n_channels": 17, "n_times": 200, "n_dims": 16, "sfreq": 200.0}
    torch.manual_seed(3)
    encoder = make_eeg_encoder(f"braindecode/{name}", **size)
    assert encoder.training
    embedding = encoder(torch.randn(4, 17, 200))
    assert embedding.shape == (4, 16)
    embedding.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    torch.manual_seed(3)
    again = make_eeg_encoder(f"braindecode/{name}", **size)
    again.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        eeg = torch.randn(2, 17, 200)
        assert torch.equal(again.eval()(eeg), encoder.eval()(eeg))


@pytest.mark.usefixtures("_braindecode")
def test_settings_reach_braindecode():
    size = {"n_channels": 4, "n_times": 200, "n_dims": 8, "sfreq": 100.0}
    small, large = (make_eeg_encoder("braindecode/EEGNet", **size, F1=f) for f in (4, 16))
    assert n_parameters(small) < n_parameters(large)
    with pytest.raises(ValueError, match=r"braindecode's EEGNet cannot take .* \(.*F9"):
        make_eeg_encoder("braindecode/EEGNet", **size, F9=4, bogus=1)


@pytest.mark.usefixtures("_braindecode")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eegnet", r"Unknown network of braindecode 'eegnet'\. Did you mean 'EEGNet'"),
        ("", r"Unknown network of braindecode ''\. Known: ATCNet"),
        ("HybridNet", r"HybridNet cannot take 4 channels x 40 samples at 50\.0 Hz \(.*too small"),
        ("SignalJEPA", r"SignalJEPA cannot take .* \(.*chs_info"),
    ],
)
def test_a_network_that_does_not_fit_is_told_in_one_sentence(name, message):
    with pytest.raises(ValueError, match=message) as told:
        make_eeg_encoder(f"braindecode/{name}", n_channels=4, n_times=40, n_dims=8, sfreq=50.0)
    assert "\n" not in str(told.value)


@pytest.mark.usefixtures("_braindecode")
def test_a_network_that_gives_no_embedding_is_told(monkeypatch):
    from braindecode import models

    class Sequence(nn.Module):
        def __init__(self, **size):
            super().__init__()

        def forward(self, eeg):
            return eeg

    monkeypatch.setattr(models, "EEGNet", Sequence)
    with pytest.raises(ValueError, match=r"one embedding a trial: \(2, 4, 40\) where \(2, 8\)"):
        make_eeg_encoder("braindecode/EEGNet", n_channels=4, n_times=40, n_dims=8)


def test_without_braindecode_its_extra_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **settings):
        if name.partition(".")[0] == "braindecode":
            raise ModuleNotFoundError("No module named 'braindecode'")
        return real(name, *args, **settings)

    for name in [n for n in sys.modules if n.partition(".")[0] == "braindecode"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ValueError, match=r"'braindecode/EEGNet' needs the package braindecode; .*\[nets\]"):
        make_eeg_encoder("braindecode/EEGNet", n_channels=4, n_times=40, n_dims=8)


# a layer per person


@pytest.fixture
def people():
    """Three people with maps of their own."""
    layer = PersonInput(4, ["anna", "ben", "cem"])
    with torch.no_grad():
        layer.deviation.copy_(torch.randn(3, 4, 4))
    return layer


def test_it_starts_as_the_identity():
    eeg, layer = torch.randn(5, 4, 10), PersonInput(4, ["anna", "ben"])
    assert torch.equal(layer(eeg, torch.tensor([0, 1, 1, 0, 0])), eeg)
    assert torch.equal(layer(eeg), eeg)


def test_each_trial_goes_through_its_persons_map(people):
    eeg, person = torch.randn(5, 4, 10), torch.tensor([2, 0, 0, 1, 2])
    with torch.no_grad():
        out = people(eeg, person)
        for trial, who, came in zip(eeg, person, out, strict=True):
            expected = (torch.eye(4) + people.deviation[who]) @ trial
            assert torch.allclose(came, expected, atol=1e-6)
        mean = torch.stack([people(eeg, torch.full((5,), who)) for who in range(3)]).mean(0)
        assert torch.allclose(people(eeg), mean, atol=1e-5)


def test_gradients_reach_only_the_people_of_the_batch(people):
    people(torch.randn(4, 4, 10), torch.tensor([2, 0, 2, 2])).square().sum().backward()
    reached = people.deviation.grad.abs().sum((1, 2)) > 0
    assert reached.tolist() == [True, False, True]


def test_weight_decay_pulls_towards_the_identity(people):
    optimizer = torch.optim.SGD(people.parameters(), lr=0.5, weight_decay=1.0)
    for _ in range(40):
        people.deviation.grad = torch.zeros_like(people.deviation)
        optimizer.step()
    eeg = torch.randn(3, 4, 10)
    assert torch.allclose(people(eeg, torch.tensor([0, 1, 2])), eeg, atol=1e-5)


def test_a_new_person_starts_from_the_mean(people):
    eeg = torch.randn(2, 4, 10)
    with torch.no_grad():
        before, ben = people(eeg), people(eeg, torch.tensor([1, 1]))
        number = people.add_person("dora")
        assert number == 3
        assert people.subjects == ["anna", "ben", "cem", "dora"]
        assert torch.allclose(people(eeg, people.numbers(["dora", "dora"])), before, atol=1e-5)
        assert torch.equal(people(eeg, torch.tensor([1, 1])), ben)
    assert people.add_person() == 4
    assert people.numbers(["person 4"]).tolist() == [4]
    people(eeg, torch.tensor([3, 3])).sum().backward()
    assert people.deviation.grad[3].any()
    assert not people.deviation.grad[[0, 1, 2, 4]].any()


def test_people_by_name(people):
    assert people.numbers(["cem", "anna", "cem"]).tolist() == [2, 0, 2]
    assert PersonInput(4, [1, 2]).numbers(["2"]).tolist() == [1]
    with pytest.raises(ValueError, match="the people anna, ben, cem; not zoe"):
        people.numbers(["anna", "zoe"])
    with pytest.raises(ValueError, match="already has a map for 'ben'"):
        people.add_person("ben")


@pytest.mark.parametrize("subjects", [[], ["anna", "anna"]])
def test_people_need_names_of_their_own(subjects):
    with pytest.raises(ValueError, match=r"one or more different names; got \["):
        PersonInput(4, subjects)


@pytest.mark.parametrize(
    ("person", "message"),
    [
        ([0, -1], "numbers 0 to 2; got -1 to 0"),  # an index of -1 would quietly be the last person
        ([0, 3], "numbers 0 to 2; got 0 to 3"),
        ([0], r"one person for each of 2 trials; got \(1,\)"),
    ],
)
def test_a_number_of_nobody_is_told(people, person, message):
    with pytest.raises(ValueError, match=message):
        people(torch.randn(2, 4, 10), torch.tensor(person))
