"""How many inputs a score can take at a time within a bound on memory, measured on one of them."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from saliency.scores import Score, check_count


def inputs_within(score: Score, item: Tensor, batch_size: int, max_memory: int | None) -> int:
    """The batch size that keeps a score of inputs like `item` within `max_memory` bytes, at most `batch_size`.

    max_memory : bytes for inputs and all that the score makes of them, its weights aside; None: no bound. It is
        an estimate: a processor's convolutions count twice, for the copies in an order of its own that its
        library makes, but what else a library or the allocator takes is not seen

    Raises ValueError when one input alone needs more.
    """
    if max_memory is None:
        return batch_size
    check_count("max_memory", max_memory)
    needed = bytes_for_one(score, item)
    if needed > max_memory:
        raise ValueError(
            f"One input needs {needed / 2**20:.0f} MiB, max_memory is {max_memory / 2**20:.0f} MiB; raise it."
        )
    return min(batch_size, max_memory // needed)


def bytes_for_one(score: Score, item: Tensor) -> int:
    """The most bytes that are alive at a time while the score of one input is computed, the input included.

    A convolution on a processor counts its input and output once more: oneDNN copies both into blocks of channels.
    """
    with torch.no_grad(), _Meter() as meter:
        score(item[None].clone())
    return meter.most


class _Meter(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._seen:
                self._seen.add(storage._cdata)
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
                self.now += storage.nbytes()
        copies = sum(map(_n_bytes, (args[0], out))) if _reorders(func, args) else 0
        self.most = max(self.most, self.now + copies)
        return out

    def _freed(self, key: int, n_bytes: int) -> None:
        self._seen.discard(key)
        self.now -= n_bytes


def _reorders(func: Any, args: tuple) -> bool:
    return func is torch.ops.aten.convolution.default and args[0].device.type == "cpu"


def _n_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
