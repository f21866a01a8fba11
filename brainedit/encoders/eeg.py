"""EEG encoders: (n, n_channels, n_times) in units of the noise's standard deviation -> (n, n_dims)."""

import math
import textwrap
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from brainedit._check import pick


class Linear(nn.Module):
    """One affine map of all samples: the baseline that a network has to beat."""

    def __init__(self, n_channels: int, n_times: int, n_dims: int) -> None:
        super().__init__()
        self.project = nn.Linear(n_channels * n_times, n_dims)

    def forward(self, eeg: Tensor) -> Tensor:
        return self.project(eeg.flatten(1))


class EEGProject(nn.Module):
    """Flatten, project, one residual block: the small network that leads the retrieval tables.

    Source: Wu et al., CVPR 2025 (UBP), "EEGProject": Linear, x + Dropout(Linear(GELU(x))), LayerNorm.
    Differs: `dropout_in` silences random samples of the input, which small recordings need.
    """

    def __init__(
        self, n_channels: int, n_times: int, n_dims: int, *, dropout: float = 0.3, dropout_in: float = 0.25
    ) -> None:
        super().__init__()
        self.drop_in = nn.Dropout(dropout_in)
        self.project = nn.Linear(n_channels * n_times, n_dims)
        self.residual = nn.Sequential(nn.GELU(), nn.Linear(n_dims, n_dims), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(n_dims)

    def forward(self, eeg: Tensor) -> Tensor:
        x = self.project(self.drop_in(eeg.flatten(1)))
        return self.norm(x + self.residual(x))


class TSConv(nn.Module):
    """Temporal then spatial convolution.

    Source: Song et al., ICLR 2024 (NICE): Conv 1 x 25, pool 51 stride 5, Conv n_channels x 1, projector
    with a residual block. Differs: kernel and pool shrink with recordings shorter than 250 samples, in
    proportion, and the pooled map is kept to at least one sample.
    """

    def __init__(
        self, n_channels: int, n_times: int, n_dims: int, *, n_filters: int = 40, dropout: float = 0.5
    ) -> None:
        super().__init__()
        ratio = min(1.0, n_times / 250)
        kernel, pool, stride = (max(1, round(k * ratio)) for k in (25, 51, 5))
        self.trunk = nn.Sequential(
            nn.Conv2d(1, n_filters, (1, kernel)),
            nn.AvgPool2d((1, pool), (1, stride)),
            nn.BatchNorm2d(n_filters),
            nn.ELU(),
            nn.Conv2d(n_filters, n_filters, (n_channels, 1)),
            nn.BatchNorm2d(n_filters),
            nn.ELU(),
            nn.Dropout(dropout),
            nn.Conv2d(n_filters, n_filters, 1),
            nn.Flatten(),
        )
        n_pooled = (n_times - kernel + 1 - pool) // stride + 1
        self.project = nn.Linear(n_filters * n_pooled, n_dims)
        self.residual = nn.Sequential(nn.GELU(), nn.Linear(n_dims, n_dims), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(n_dims)

    def forward(self, eeg: Tensor) -> Tensor:
        x = self.project(self.trunk(eeg[:, None]))
        return self.norm(x + self.residual(x))


class LSTM(nn.Module):
    """The last state of a recurrent network over the samples.

    n_layers, bias : 4 and False are those of EEGStyleGAN-ADA

    Source: Spampinato et al., CVPR 2017: LSTM(128), last step, Linear, ReLU; Singh et al., WACV 2024
    (EEGStyleGAN-ADA): four layers, Linear without bias. Differs: no final ReLU, so that an embedding can
    point anywhere.
    """

    def __init__(
        self,
        n_channels: int,
        n_times: int,
        n_dims: int,
        *,
        n_hidden: int = 128,
        n_layers: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_channels, n_hidden, num_layers=n_layers, batch_first=True)
        self.project = nn.Linear(n_hidden, n_dims, bias=bias)

    def forward(self, eeg: Tensor) -> Tensor:
        states, _ = self.lstm(eeg.transpose(1, 2))
        return self.project(states[:, -1])


class CNN(nn.Module):
    """Convolutions over samples and channels as over a picture, each map scaled to itself, then pooled.

    Instance normalisation takes each trial's strength away.
    Source: Singh et al., WACV 2024 (EEGStyleGAN-ADA): four of Conv 3 x 3 stride 2, InstanceNorm, LeakyReLU,
    Dropout; mean over the map; Linear without bias. Differs: an axis is halved only while four or more are
    left, since a normalised map of two values has the same mean whatever the EEG was.

    Raises ValueError when the recording is too small for maps that can differ.
    """

    def __init__(
        self,
        n_channels: int,
        n_times: int,
        n_dims: int,
        *,
        widths: Sequence[int] = (128, 256, 512, 1024),
        dropout: float = 0.05,
    ) -> None:
        super().__init__()
        size, stages = (n_times, n_channels), []
        for n_in, n_out in zip((1, *widths), widths, strict=False):
            stride = tuple(2 if math.ceil(n / 2) >= 4 else 1 for n in size)
            size = tuple(math.ceil(n / step) for n, step in zip(size, stride, strict=True))
            convolution = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
            stages += [convolution, nn.InstanceNorm2d(n_out), nn.LeakyReLU(), nn.Dropout(dropout)]
        if math.prod(size) < 4:
            raise ValueError(
                f"The EEG encoder 'cnn' needs maps of 4 or more values; it has {n_channels} channels x {n_times} "
                "samples."
            )
        self.stages = nn.Sequential(*stages)
        self.project = nn.Linear(widths[-1], n_dims, bias=False)

    def forward(self, eeg: Tensor) -> Tensor:
        return self.project(self.stages(eeg.transpose(1, 2)[:, None]).mean((2, 3)))


class EEGChannelNet(nn.Module):
    """Parallel dilated temporal convolutions, parallel spatial ones, four residual stages.

    Channels should be ordered in rows of the 10-20 layout.
    Source: Palazzo et al., TPAMI 2021, section 7.2 (five dilations 1 to 16; spatial kernels over all, 1/2,
    1/4 and 1/8 of the channels; ReLU and batch norm after each convolution). Differs: strides and the
    number of stages adapt so that small recordings (few channels, short windows) are not pooled away.
    """

    def __init__(
        self, n_channels: int, n_times: int, n_dims: int, *, n_filters: int = 10, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.temporal = nn.ModuleList(
            _conv(1, n_filters, (1, 33), stride=(1, 2), dilation=(1, d), padding=(0, 16 * d))
            for d in (1, 2, 4, 8, 16)
        )
        heights = sorted({max(1, n_channels // k) for k in (1, 2, 4, 8)}, reverse=True)
        row_stride = 2 if n_channels >= 8 else 1
        self.spatial = nn.ModuleList(
            _conv(5 * n_filters, 5 * n_filters, (h, 1), stride=(row_stride, 1), padding=(h // 2, 0))
            for h in heights
        )
        width = 5 * n_filters * len(heights)
        self.stages = nn.ModuleList(_ResidualStage(width) for _ in range(4))
        self.reduce = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(width, 5 * n_filters, 1), nn.ReLU())
        with torch.no_grad():
            n_flat = self.eval()._features(torch.zeros(1, n_channels, n_times)).shape[1]
        self.train()
        self.project = nn.Linear(n_flat, n_dims)

    def _features(self, eeg: Tensor) -> Tensor:
        x = torch.cat([branch(eeg[:, None]) for branch in self.temporal], 1)
        maps = [branch(x) for branch in self.spatial]
        rows = min(m.shape[2] for m in maps)
        x = torch.cat([m[:, :, :rows] for m in maps], 1)  # (n, width, rows, n_times / 2)
        for stage in self.stages:
            x = stage(x)
        return self.reduce(x).flatten(1)

    def forward(self, eeg: Tensor) -> Tensor:
        return self.project(self._features(eeg))


class _ResidualStage(nn.Module):
    """A residual block of two 3 x 3 convolutions, then one that halves every axis longer than two."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(width, width, (3, 3), padding=(1, 1))
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        self.shrink = _conv(width, width, (3, 3), stride=(2, 2), padding=(1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.shrink(torch.relu(x + self.second(self.first(x))))


def _conv(n_in: int, n_out: int, kernel: tuple[int, int], **geometry: tuple[int, int]) -> nn.Module:
    return nn.Sequential(nn.Conv2d(n_in, n_out, kernel, **geometry), nn.BatchNorm2d(n_out), nn.ReLU())


class PersonInput(nn.Module):
    """One linear map over the channels for each person, before an encoder that all people share.

    subjects : the people's names; a person's number is the place in them

    Each map is the identity plus a learned part that starts at zero, so that weight decay pulls towards the
    identity.
    Source: the subject layer of Défossez et al., Nature Machine Intelligence 2023. Differs: it stands before
    everything else, starts at the identity, and gives a person who is not known the mean map.
    """

    def __init__(self, n_channels: int, subjects: Sequence[str]) -> None:
        super().__init__()
        self.subjects = list(map(str, subjects))
        if not self.subjects or len(set(self.subjects)) < len(self.subjects):
            raise ValueError(f"A layer per person needs one or more different names; got {self.subjects}.")
        self.deviation = nn.Parameter(torch.zeros(len(self.subjects), n_channels, n_channels))

    def forward(self, eeg: Tensor, person: Tensor | None = None) -> Tensor:
        """EEG (n, n_channels, n_times) and the number of each trial's person, (n,) -> the same shape.

        Without `person` the mean of the people's maps is used.
        Raises ValueError when a number is none of the people's.
        """
        if person is None:
            return eeg + self.deviation.mean(0) @ eeg
        if person.shape != eeg.shape[:1]:
            raise ValueError(f"Need one person for each of {len(eeg)} trials; got {tuple(person.shape)}.")
        if len(person) and not 0 <= int(person.min()) <= int(person.max()) < len(self.subjects):
            came = f"{int(person.min())} to {int(person.max())}"
            raise ValueError(f"People have the numbers 0 to {len(self.subjects) - 1}; got {came}.")
        return eeg + self.deviation[person] @ eeg

    def numbers(self, subjects: Sequence[str]) -> Tensor:
        """The number of each trial's person, (n,), from the people's names. Raises ValueError for another name."""
        known = {name: i for i, name in enumerate(self.subjects)}
        unknown = sorted({str(name) for name in subjects} - set(known))
        if unknown:
            raise ValueError(
                f"The layer knows the people {', '.join(known)}; not {', '.join(unknown)}: add_person adds one."
            )
        return torch.tensor([known[str(name)] for name in subjects], device=self.deviation.device)

    def add_person(self, name: str | None = None) -> int:
        """A new map that starts as the mean of the others; its number. An optimiser must be made after it."""
        name = f"person {len(self.subjects)}" if name is None else str(name)
        if name in self.subjects:
            raise ValueError(f"The layer already has a map for {name!r}.")
        with torch.no_grad():
            mean = self.deviation.mean(0, keepdim=True)
            self.deviation = nn.Parameter(torch.cat([self.deviation, mean]))
        self.subjects.append(name)
        return len(self.subjects) - 1


EEG_ENCODERS = {
    "eegproject": EEGProject,
    "tsconv": TSConv,
    "lstm": LSTM,
    "cnn": CNN,
    "eegchannelnet": EEGChannelNet,
    "linear": Linear,
}


def make_eeg_encoder(
    name: str, *, n_channels: int, n_times: int, n_dims: int, sfreq: float | None = None, **settings
) -> nn.Module:
    """The EEG encoder called `name`: a module (n, n_channels, n_times) -> (n, n_dims).

    name : one of EEG_ENCODERS, or "braindecode/EEGNet" for any network of that library (not among our
        requirements)
    sfreq : rate (Hz), which some of braindecode's networks ask for

    Raises ValueError for an unknown name, settings that the network does not take, or a recording that it
    cannot take.
    """
    library, _, network = name.partition("/")
    if library == "braindecode":
        size = {"n_chans": n_channels, "n_times": n_times, "n_outputs": n_dims, "sfreq": sfreq}
        return _braindecode(network, size, settings)
    return pick("EEG encoder", name, EEG_ENCODERS)(n_channels, n_times, n_dims, **settings)


def _braindecode(network: str, size: dict, settings: dict) -> nn.Module:
    """A network of braindecode that was seen to give one embedding a trial."""
    try:
        with warnings.catch_warnings():  # its own, of other libraries' deprecations
            warnings.simplefilter("ignore")
            from braindecode import models
    except ImportError as error:
        raise ValueError(
            f"The EEG encoder 'braindecode/{network}' needs the package braindecode; install brainedit[nets]."
        ) from error
    known = {n: m for n, m in vars(models).items() if isinstance(m, type) and issubclass(m, nn.Module)}
    make = pick("network of braindecode", network, known)
    shape = (2, size["n_chans"], size["n_times"])
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            encoder = make(**size, **settings).eval()
            embedding = encoder(torch.zeros(shape))
    except Exception as error:  # each network has its own demands and its own way to state them
        raise ValueError(
            f"braindecode's {network} cannot take {shape[1]} channels x {shape[2]} samples at {size['sfreq']} Hz "
            f"({textwrap.shorten(str(error), 200) or type(error).__name__})."
        ) from error
    if not isinstance(embedding, Tensor) or embedding.shape != (2, size["n_outputs"]):
        came = tuple(embedding.shape) if isinstance(embedding, Tensor) else type(embedding).__name__
        raise ValueError(
            f"braindecode's {network} does not give one embedding a trial: {came} where "
            f"(2, {size['n_outputs']}) is needed."
        )
    return encoder.train()
