"""One training on several processes (`torchrun`): who computes what, and how the parts come together.

With one process, and no set-up, every function here does nothing. With more, all processes draw the same global
batch from the same seeded generator, embed their own share of it, gather the embeddings, and compute the same
loss over the whole batch; `average_gradients` then makes the step that of one process with that batch.
"""

import atexit
import functools
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

TIMEOUT = timedelta(
    hours=2
)  # others may wait that long, e.g. for the first to compute the pictures' features


@dataclass(frozen=True)
class World:
    """Which process this is, of how many, and the device that is its own (None where there is one only)."""

    rank: int = 0
    size: int = 1
    device: torch.device | None = None


def world() -> World:
    """This process among those that train together; the first call connects them.

    Raises ValueError when WORLD_SIZE asks for several processes and nothing says which of them this is.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) == 1:
        return World()
    return _connect()


def is_main() -> bool:
    """Whether this process shows, saves and reports; one of them does."""
    return world().rank == 0


def shard(n: int) -> slice:
    """This process's contiguous share of n items; shares differ by one at most, and may be empty."""
    here = world()
    return slice(n * here.rank // here.size, n * (here.rank + 1) // here.size)


def gather(share: Tensor) -> Tensor:
    """Every process's share (n_share, ...) joined in their order, (n, ...); shares may differ in length.

    Differentiable: a share's gradient is the sum of what all processes ask of it, so that `average_gradients`
    gives the gradient of the mean of the processes' losses.
    """
    return share if world().size == 1 else _Gather.apply(share)


def average(value: Tensor) -> Tensor:
    """The mean of a value over the processes; not differentiable."""
    return value.detach() if world().size == 1 else _sum(value.detach().clone()) / world().size


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the mean of all processes' gradients.

    A parameter without a gradient on some counts as zero there; without one on all it stays without.
    """
    if world().size == 1:
        return
    groups: dict[tuple, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            groups.setdefault((parameter.device, parameter.dtype), []).append(parameter)
    for group in groups.values():
        _average_group(group)


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with the main process's."""
    if world().size > 1:
        with torch.no_grad():
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, src=0)
                tensor.copy_(whole)


def broadcast_bytes(data: bytes | None) -> bytes | None:
    """The main process's bytes, or None where it has none; the others' are not looked at."""
    if world().size == 1:
        return data
    length = torch.tensor(-1 if data is None else len(data))
    dist.broadcast(length, src=0)
    if length < 0:
        return None
    content = torch.zeros(int(length), dtype=torch.uint8)
    if is_main() and data:
        content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    dist.broadcast(content, src=0)
    return content.numpy().tobytes()


def check_same(what: str, content: bytes) -> None:
    """Raises ValueError, on all processes, when one's content is not that of the others.

    what : what the content is, for the message: "settings", "order of the batches"
    """
    if world().size == 1:
        return
    digest = torch.frombuffer(bytearray(hashlib.sha256(content).digest()), dtype=torch.uint8)
    digests = [torch.empty_like(digest) for _ in range(world().size)]
    dist.all_gather(digests, digest)
    other = [rank for rank, found in enumerate(digests) if not torch.equal(found, digests[0])]
    if other:
        raise ValueError(
            f"The processes of one training need the same {what}; process {other[0]} of {len(digests)} has "
            "another than process 0. Start all with the same command, code and data."
        )


def barrier() -> None:
    """Wait until every process is here."""
    if world().size > 1:
        dist.all_reduce(torch.zeros(1))


def synchronised(module: nn.Module) -> nn.Module:
    """The module with batch norms that use the whole global batch; names of weights and buffers stay.

    With one process the module itself. It changes the module in place; a batch norm given as such comes back
    as another object.
    Differs: torch.nn.SyncBatchNorm is for accelerators only, this one for any device.
    """
    if world().size == 1:
        return module
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return _SynchronisedNorm.of(module)
    for name, child in module.named_children():
        setattr(module, name, synchronised(child))
    return module


@functools.cache
def _connect() -> World:
    missing = [
        name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
    ]
    if missing:
        raise ValueError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} asks for several processes, but {missing[0]} is not set; start "
            "them with torchrun, or unset WORLD_SIZE."
        )
    from accelerate import PartialState

    cuda = torch.cuda.is_available()
    # both, so that small numbers on the CPU travel beside gradients on the GPU
    backend = "cuda:nccl,cpu:gloo" if cuda else "gloo"
    state = PartialState(cpu=not cuda, backend=backend, timeout=TIMEOUT)
    atexit.register(state.destroy_process_group)
    return World(state.process_index, state.num_processes, state.device)


def _sum(tensor: Tensor) -> Tensor:
    dist.all_reduce(tensor)
    return tensor


class _Gather(torch.autograd.Function):
    """Shares are padded to the longest, since not every backend joins unequal ones."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, share: Tensor) -> Tensor:
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world().size)]
        dist.all_gather(lengths, torch.tensor([len(share)]))
        lengths = [int(length) for length in lengths]
        padded = share.new_zeros(max(lengths), *share.shape[1:])
        padded[: len(share)] = share
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        start = sum(lengths[: world().rank])
        ctx.own = slice(start, start + len(share))
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return _sum(gradient.clone(memory_format=torch.contiguous_format))[ctx.own]


class _Sum(torch.autograd.Function):
    """The sum over processes, whose gradient is the sum of what all ask of it."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, value: Tensor) -> Tensor:
        return _sum(value.clone(memory_format=torch.contiguous_format))

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return _sum(gradient.clone(memory_format=torch.contiguous_format))


def _average_group(parameters: list[nn.Parameter]) -> None:
    """Parameters of one device and type, in one message; behind them, which have a gradient at all."""
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    present = parts[0].new_tensor([p.grad is not None for p in parameters])
    joined = _sum(torch.cat([*(part.flatten() for part in parts), present]))
    sizes = [p.numel() for p in parameters]
    means = (joined[: sum(sizes)] / world().size).split(sizes)
    for parameter, mean, n in zip(parameters, means, joined[sum(sizes) :].tolist(), strict=True):
        parameter.grad = mean.view_as(parameter).clone() if n else None


class _SynchronisedNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the global batch: mean and variance are summed over the processes."""

    @classmethod
    def of(cls, norm: nn.modules.batchnorm._BatchNorm) -> "_SynchronisedNorm":
        """One with the weights, buffers and settings of `norm`; the tensors are shared."""
        twin = cls(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta"
        )
        twin._parameters, twin._buffers = norm._parameters, norm._buffers
        return twin.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(
                f"Batch norm needs (n, {self.num_features}, ...), got shape {tuple(input.shape)}."
            )

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        full = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        axes = [0, *range(2, full.ndim)]
        shape = (1, -1, *[1] * (full.ndim - 2))
        own = full.new_tensor([full.numel() // self.num_features])
        count, total = _Sum.apply(torch.cat([own, full.sum(axes)])).split([1, self.num_features])
        if count < 2:
            raise ValueError(
                f"Batch norm needs more than one value per channel, got {int(count)} in all processes."
            )
        mean = total / count
        centred = full - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / count
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach() * count / (count - 1))
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        rate = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), rate)
        self.running_var.lerp_(variance.to(self.running_var), rate)
