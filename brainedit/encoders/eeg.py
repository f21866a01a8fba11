"""EEG encoders: (n, n_channels, n_times) in units of the noise's standard deviation -> (n, n_dims)."""

import torch
from torch import Tensor, nn

from brainedit._check import pick


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

    Source: Spampinato et al., CVPR 2017: LSTM(128), last step, Linear, ReLU. Differs: no final ReLU, so
    that an embedding can point anywhere.
    """

    def __init__(self, n_channels: int, n_times: int, n_dims: int, *, n_hidden: int = 128) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_channels, n_hidden, batch_first=True)
        self.project = nn.Linear(n_hidden, n_dims)

    def forward(self, eeg: Tensor) -> Tensor:
        states, _ = self.lstm(eeg.transpose(1, 2))
        return self.project(states[:, -1])


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


EEG_ENCODERS = {"eegproject": EEGProject, "tsconv": TSConv, "lstm": LSTM, "eegchannelnet": EEGChannelNet}


def make_eeg_encoder(name: str, *, n_channels: int, n_times: int, n_dims: int, **settings) -> nn.Module:
    """The EEG encoder called `name`: a module (n, n_channels, n_times) -> (n, n_dims)."""
    return pick("EEG encoder", name, EEG_ENCODERS)(n_channels, n_times, n_dims, **settings)
