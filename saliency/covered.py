"""Scores of a picture's copies with one window covered: only what a window changes is computed, where that can be."""

import logging
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from saliency.fills import Fill, fill_patches
from saliency.locality import LocalScore
from saliency.memory import inputs_within
from saliency.scores import Score, check_steady, evaluate, finite
from saliency.tracing import Pair, Step, trace

logger = logging.getLogger(__name__)

PLAIN_BATCH = 4  # pictures at a time, at most, where a processor computes them whole: more are slower
EXACT = 1e-4  # of the scores' range: by how much the local way may differ from the plain one
_traced: dict[int, dict] = {}  # by a score's id, as long as it lives
_tracing = threading.Lock()  # torch traces in one thread at a time


class CoveredScores:
    """Scores of copies of one picture, by the corners of their covered windows.

    A network of convolutions, pools, batch norms in evaluation mode and point-wise operations takes the local
    way (`saliency.locality`), anything else the plain one; the log says which, and why. The local way is
    compared with the plain one on three windows, and left where they differ.

    clean : the clean picture's scores (k,), float64
    single : whether the score gives (n,) instead of (n, k)
    dtype : of the maps: the score's, but at least float32
    """

    def __init__(
        self,
        score: Score,
        image: Tensor,
        *,
        window: int,
        fill: Fill,
        batch_size: int,
        max_memory: int | None,
        precision: str,
        seed: int,
    ) -> None:
        self.score, self.image, self.window, self.fill, self.seed = score, image, window, fill, seed
        self.autocast = nullcontext()
        if precision == "bfloat16":
            self.autocast = torch.autocast(image.device.type, torch.bfloat16)
        self.batch_size = inputs_within(score, image, batch_size, max_memory)
        with torch.no_grad():
            self._first = self._evaluate(image[None])
            if precision == "float32":
                check_steady(score, image[None], self._first)
            self._local = self._local_way(max_memory) if precision == "float32" else None
        self.single, self.clean = self._first.ndim == 1, self._first.reshape(-1).cpu().double()
        self.dtype = torch.promote_types(self._first.dtype, torch.float32)

    def __call__(self, corners: Sequence[Pair], *, bar: Callable[[Iterable], Iterable] = iter) -> Tensor:
        """Scores (n, k), float64; `bar` goes around the list of batches, e.g. to show progress."""
        with torch.no_grad():
            if self._local:
                try:
                    values = self._locally(corners, bar)
                    if self._is_right(corners, values):
                        return values
                except RuntimeError as error:  # torch's own, e.g. a geometry that a library refuses
                    logger.warning("The fast way failed (%s); the plain one is taken.", error)
                self._local = None
            return self._plainly(corners, bar)

    def _plainly(self, corners: Sequence[Pair], bar: Callable) -> Tensor:
        size = min(self.batch_size, PLAIN_BATCH) if self.image.device.type == "cpu" else self.batch_size
        values = [self._evaluate(self._covered(part)) for part in bar(_batches(corners, size))]
        return _flat(finite(torch.cat(values)))

    def _locally(self, corners: Sequence[Pair], bar: Callable) -> Tensor:
        order = sorted(range(len(corners)), key=lambda i: self._local.reach(corners[i], self.window))
        values = []
        for part in bar(_batches([corners[i] for i in order], self._local.n)):
            filled = [*part, *[part[-1]] * (self._local.n - len(part))]  # it takes batches of one size alone
            values.append(self._local(self._patches(filled), filled)[: len(part)])
        return _flat(torch.cat(values))[torch.tensor(order).argsort()]

    def _is_right(self, corners: Sequence[Pair], values: Tensor) -> bool:
        """Whether the plain way gives the same in the middle and at the extremes of the widest map."""
        if not bool(values.isfinite().all()):  # the plain way tells whether they come from the score itself
            return self._refused("gives NaN or infinity")
        spans = torch.maximum(values.amax(0), self.clean) - torch.minimum(values.amin(0), self.clean)  # (k,)
        widest = values[:, spans.argmax()]
        some = sorted({len(corners) // 2, int(widest.argmax()), int(widest.argmin())})
        plain = torch.cat([_flat(self._evaluate(self._covered([corners[i]]))) for i in some])
        differences = (values[some] - plain).abs().amax(0)
        if bool((differences <= EXACT * spans + 1e-6 * plain.abs().max()).all()):
            return True
        share = float((differences / spans).max())
        return self._refused(f"differs from the plain one by {share:.2g} of the map's range")

    def _refused(self, why: str) -> bool:
        logger.warning("The fast way %s; the plain one is taken.", why)
        _traced.pop(id(self.score), None)
        return False

    def _local_way(self, max_memory: int | None) -> LocalScore | None:
        """The traced score on this picture; None, and why in the log, where it takes the plain way."""
        why = "it is not a torch.nn.Module"
        if isinstance(self.score, nn.Module):
            steps, why = _trace(self.score, self.image, self.batch_size)
            if (
                steps
                and max_memory
                and LocalScore.bytes_kept(steps, self.image.element_size()) > max_memory // 2
            ):
                why = "max_memory leaves no room for the clean picture's maps"
            elif steps:
                return LocalScore(steps, self.image)
        logger.info("Occlusion computes the whole score for every window: %s.", why)
        return None

    def _covered(self, corners: Sequence[Pair]) -> Tensor:
        copies = self.image.repeat(len(corners), 1, 1, 1)
        for copy, patch, (top, left) in zip(copies, self._patches(corners), corners, strict=True):
            copy[:, top : top + self.window, left : left + self.window] = patch
        return copies

    def _patches(self, corners: Sequence[Pair]) -> Tensor:
        return fill_patches(self.image, corners, self.window, fill=self.fill, seed=self.seed)

    def _evaluate(self, batch: Tensor) -> Tensor:
        with self.autocast:
            return evaluate(self.score, batch, like=getattr(self, "_first", None))


def _trace(score: nn.Module, image: Tensor, batch_size: int) -> tuple[list[Step] | None, str]:
    """The score's steps, kept for the next picture, or None and why the local way is not for it."""
    if image.device.type != "cpu":
        return None, "on a GPU many small operations are slower than few large ones"
    key = (batch_size, image.shape, image.dtype, torch.is_autocast_enabled(image.device.type))
    with _tracing:
        if id(score) not in _traced:
            weakref.finalize(score, _traced.pop, id(score), None)
        kept, state = _traced.setdefault(id(score), {}), _state(score)
        if kept.get("state") != state:
            kept.clear()
            kept["state"] = state
        if key not in kept:
            kept[key] = _steps_or_reason(score, image.new_zeros(batch_size, *image.shape))
        return kept[key]


def _state(score: nn.Module) -> list:
    """All that a trace can depend on: checksums of weights and buffers, and the modules' own attributes."""
    tensors = [*score.parameters(), *score.buffers()]
    sums = [zlib.crc32(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()) for t in tensors]
    plain = (int, float, str, bool, tuple, list, torch.dtype, torch.Size, type(None))
    parts = [
        (name, repr(value) if isinstance(value, plain) else id(value))
        for module in score.modules()
        for name, value in vars(module).items()
        if name not in ("_parameters", "_buffers", "_modules")
    ]
    hooks = [tuple(map(id, module._forward_hooks.values())) for module in score.modules()]
    before = [tuple(map(id, module._forward_pre_hooks.values())) for module in score.modules()]
    return [sums, parts, hooks, before, [id(module) for module in score.modules()]]


def _steps_or_reason(score: nn.Module, batch: Tensor) -> tuple[list[Step] | None, str]:
    try:
        steps = trace(score, batch)
    except Exception as error:  # torch has many words for what it cannot trace
        return None, f"it cannot be traced ({type(error).__name__})"
    local = LocalScore.n_local(steps)
    if local < 2:
        return None, "operations that see the whole picture come first"
    logger.info("Occlusion computes %d of %d operations where a window matters.", local, len(steps))
    return steps, ""


def _batches(items: Sequence, size: int) -> list[Sequence]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _flat(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).cpu().double()
