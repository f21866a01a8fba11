"""Exact occlusion by locality: far from a covered window a network's maps are those of the clean picture.

Only the rectangle that a window can change is computed, and pasted into the clean picture's map where a kernel
reaches beyond it, until the rectangles have grown over the whole map. From there on, and from the first
operation that is not local, everything is computed as it stands.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saliency.tracing import Kernel, Pair, Step, unpadded

WHOLE = 0.93  # of a map: where a rectangle covers more, the whole map is computed


@dataclass
class Patch:
    """New values of a map for a batch of windows, (n, c, h, w), and the corners where they lie."""

    values: Tensor
    corners: Sequence[Pair]


class LocalScore:
    """A traced score bound to one clean picture: it gives the scores of copies with a window covered."""

    def __init__(self, steps: list[Step], image: Tensor) -> None:
        self.steps = steps
        self.n = steps[0].shape[0]
        self._clean = {steps[0]: image[None].contiguous(memory_format=torch.channels_last)}
        self._padded: dict[tuple[Step, Kernel], Tensor] = {}
        self._reaches: dict[tuple[int, int, int], dict[Step, Pair]] = {}
        self._last_use = {parent: step for step in steps for parent in step.parents}
        self._may_overwrite = {
            step: step.in_place is not None
            and step.parents[0].kind == "kernel"
            and step.parents[0].inside is not unpadded  # which may hand on its input itself
            and sum(step.parents[0] in other.parents for other in steps) == 1
            for step in steps
        }

    @staticmethod
    def n_local(steps: list[Step]) -> int:
        """How many operations come before the first that sees the whole picture, on every way to it."""
        local = {steps[0]}
        for step in steps[1:]:
            if step.kind != "other" and all(parent in local for parent in step.parents):
                local.add(step)
        return len(local) - 1

    @staticmethod
    def bytes_kept(steps: list[Step], n_bytes: int) -> int:
        """At most, for numbers of n_bytes: the clean picture's maps, as they are and with their surroundings."""
        return 2 * sum(n_bytes * math.prod(step.shape[1:]) for step in steps if step.kind != "other")

    def reach(self, corner: Pair, window: int) -> tuple[Pair, ...]:
        """Sizes of what a window can change, step by step: windows with equal ones go well together."""
        axes = [self._reach(axis, corner[axis], window) for axis in (0, 1)]
        return tuple(
            (axes[0][step][1] - axes[0][step][0], axes[1][step][1] - axes[1][step][0]) for step in axes[0]
        )

    def __call__(self, patches: Tensor, corners: Sequence[Pair]) -> Tensor:
        """Scores of the picture with patches (n, 3, window, window) put at corners (top, left)."""
        window = patches.shape[-1]
        reaches = [[self._reach(axis, corner[axis], window) for corner in corners] for axis in (0, 1)]
        values: dict[Step, Patch | Tensor] = {self.steps[0]: Patch(_rows(patches), corners)}
        for step in self.steps[1:]:
            values[step] = self._value(step, [values[parent] for parent in step.parents], reaches)
            for parent in step.parents:
                if self._last_use[parent] is step:
                    values.pop(parent, None)
        return self._whole(self.steps[-1], values[self.steps[-1]])

    def _value(self, step: Step, given: list[Patch | Tensor], reaches: list[list[dict]]) -> Patch | Tensor:
        run = step.in_place if self._may_overwrite[step] else step.run
        if step.kind == "other" or not all(isinstance(value, Patch) for value in given):
            return run(*map(self._whole, step.parents, given))
        if step.kind == "pointwise":
            return Patch(run(given[0].values), given[0].corners)
        if step.kind == "kernel" and step.kernel.stays:
            return Patch(step.inside(given[0].values), given[0].corners)
        (height, width), corners = self._rectangle(step, reaches)
        if height * width >= WHOLE * step.shape[2] * step.shape[3]:
            return run(*map(self._whole, step.parents, given))
        regions = [
            self._region(parent, value, step.kernel, (height, width), corners)
            for parent, value in zip(step.parents, given, strict=True)
        ]
        return Patch((step.inside or step.run)(*regions), corners)

    def _rectangle(self, step: Step, reaches: list[list[dict]]) -> tuple[Pair, list[Pair]]:
        """One size for all windows of the batch, the largest, and corners that keep it on the map."""
        size, starts = [], []
        for axis in (0, 1):
            spans = [reach[step] for reach in reaches[axis]]
            size.append(max(1, *(b - a for a, b in spans)))  # a step wider than its kernel may miss a window
            starts.append([min(a, step.shape[2 + axis] - size[axis]) for a, _ in spans])
        return tuple(size), list(zip(*starts, strict=True))

    def _region(
        self, step: Step, patch: Patch, kernel: Kernel, size: Pair, corners: Sequence[Pair]
    ) -> Tensor:
        """What a kernel reads for rectangles of its output: clean surroundings with the patches in them."""
        clean = self._surrounded(step, kernel)
        height, width = ((n - 1) * s + k for n, s, k in zip(size, kernel.stride, kernel.size, strict=True))
        starts = [tuple(c * s for c, s in zip(corner, kernel.stride, strict=True)) for corner in corners]
        region = _cut(clean, starts, height, width)
        offsets = [
            tuple(c + b - s for c, b, s in zip(own, kernel.before, start, strict=True))
            for own, start in zip(patch.corners, starts, strict=True)
        ]
        if len(set(offsets)) == 1:
            _paste(region, patch.values, *offsets[0])
        else:
            for i, offset in enumerate(offsets):
                _paste(region[i], patch.values[i], *offset)
        return region

    def _whole(self, step: Step, value: Patch | Tensor) -> Tensor:
        if not isinstance(value, Patch):
            return value
        clean = self._clean_value(step)
        whole = _empty(len(value.corners), *clean.shape[1:], like=clean)
        whole.copy_(clean.expand_as(whole))
        for i, (top, left) in enumerate(value.corners):
            _paste(whole[i], value.values[i], top, left)
        return whole

    def _surrounded(self, step: Step, kernel: Kernel) -> Tensor:
        key = (step, kernel)
        if key not in self._padded:
            padded = kernel.pad(self._clean_value(step))
            self._padded[key] = padded.contiguous(memory_format=torch.channels_last)
        return self._padded[key]

    def _clean_value(self, step: Step) -> Tensor:
        if step not in self._clean:
            self._clean[step] = step.run(*map(self._clean_value, step.parents))
        return self._clean[step]

    def _reach(self, axis: int, start: int, window: int) -> dict[Step, Pair]:
        """What a window can change along an axis, for every step that is reached by local ones alone."""
        key = (axis, start, window)
        if key not in self._reaches:
            found = {self.steps[0]: (start, start + window)}
            for step in self.steps[1:]:
                if step.kind != "other" and all(parent in found for parent in step.parents):
                    spans = [found[parent] for parent in step.parents]
                    span = min(a for a, _ in spans), max(b for _, b in spans)
                    found[step] = step.kernel.reach(axis, span, step.shape[2 + axis])
            self._reaches[key] = found
        return self._reaches[key]


def _paste(region: Tensor, values: Tensor, top: int, left: int) -> None:
    """Overwrite maps (..., h, w) by values whose corner lies at (top, left) of them, as far as they overlap."""
    (height, width), (rows, columns) = region.shape[-2:], values.shape[-2:]
    y, x = max(top, 0), max(left, 0)
    down, across = min(top + rows, height), min(left + columns, width)
    if y < down and x < across:
        region[..., y:down, x:across] = values[..., y - top : down - top, x - left : across - left]


def _cut(clean: Tensor, starts: Sequence[Pair], height: int, width: int) -> Tensor:
    """Rectangles (n, c, height, width) of a map (1, c, h, w), by rows of channels; both are channels-last."""
    tops, lefts = torch.tensor(starts, device=clean.device).T
    down = tops[:, None] + torch.arange(height, device=clean.device)
    across = lefts[:, None] + torch.arange(width, device=clean.device)
    places = (down[:, :, None] * clean.shape[3] + across[:, None, :]).flatten()
    rows = clean.permute(0, 2, 3, 1).reshape(-1, clean.shape[1]).index_select(0, places)
    return rows.view(len(starts), height, width, -1).permute(0, 3, 1, 2)


def _empty(*shape: int, like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _rows(values: Tensor) -> Tensor:
    return values.contiguous(memory_format=torch.channels_last)
