"""A score as a list of plain operations: constants computed, paddings and batch norms folded into convolutions."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

aten = torch.ops.aten

_UNARY = (
    "relu hardtanh leaky_relu elu gelu silu sigmoid tanh hardswish hardsigmoid mish softplus clamp clamp_min clamp_max "
    "neg abs exp sqrt rsqrt reciprocal log1p clone alias detach"
)
_POINTWISE = {getattr(aten, name).default for name in _UNARY.split()} | {aten.pow.Tensor_Scalar}
_BINARY = {
    getattr(getattr(aten, f), kind) for f in ("add", "sub", "mul", "div") for kind in ("Tensor", "Scalar")
}
_BATCH_NORMS = {aten._native_batch_norm_legit_no_training.default, aten.native_batch_norm.default}
_ACTIVATIONS = {  # what oneDNN computes with a convolution: its name, and the numbers where none are given
    aten.relu.default: ("relu",),
    aten.hardtanh.default: ("hardtanh", -1.0, 1.0),
    aten.silu.default: ("swish",),
    aten.hardswish.default: ("hardswish",),
}
_MAY_BE_NAN = {"sqrt", "rsqrt", "reciprocal", "pow", "log", "log1p", "log2", "log10", "asin", "acos", "atanh"}
_ANY_LAYOUT = {aten.view.default: aten.reshape.default, aten._unsafe_view.default: aten.reshape.default}
_SHARED = {
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
}  # their value may be their input itself

Pair = tuple[int, int]


@dataclass(frozen=True)
class Kernel:
    """How an operation reaches over its input, per axis: extent (dilation included) and step.

    before, after : rows and columns of `fill` that the operation puts around its input
    """

    size: Pair = (1, 1)
    stride: Pair = (1, 1)
    before: Pair = (0, 0)
    after: Pair = (0, 0)
    fill: float = 0.0

    @property
    def stays(self) -> bool:
        """Whether each place of the output reads the same place of the input."""
        return self.size == self.stride == (1, 1) and not any(self.before + self.after)

    def reach(self, axis: int, interval: Pair, length: int) -> Pair:
        """What of the output, `length` long, changes with an interval [a, b) of the input."""
        (a, b), size, stride, before = interval, self.size[axis], self.stride[axis], self.before[axis]
        return max(0, -(-(a + before - size + 1) // stride)), min(length, (b - 1 + before) // stride + 1)

    def pad(self, value: Tensor) -> Tensor:
        """The input with its surroundings, (n, c, h, w)."""
        (top, left), (bottom, right) = self.before, self.after
        return (
            F.pad(value, (left, right, top, bottom), value=self.fill)
            if any(self.before + self.after)
            else value
        )


@dataclass(eq=False, repr=False)
class Step:
    """One operation on values of earlier steps.

    kind : "input"; "pointwise", of one parent; "join", of parents with equal geometry; "kernel"; or "other"
    run : parents' values -> value
    inside : of a kernel: the same without padding, for a region that has its surroundings already
    in_place : of a point-wise operation: the same, overwriting its input
    shape : of the value as traced, (n, c, h, w) where it is a map
    """

    kind: str
    run: Callable[..., Tensor]
    parents: list["Step"] = field(default_factory=list)
    kernel: Kernel = Kernel()
    inside: Callable[[Tensor], Tensor] | None = None
    in_place: Callable[[Tensor], Tensor] | None = None
    shape: tuple[int, ...] = ()


def trace(score: nn.Module, batch: Tensor) -> list[Step]:
    """The steps from a batch (n, 3, h, w) to its scores, in order; the first is the input, the last the scores.

    The number of pictures may be written into them: they serve batches of that size alone.
    Raises one of torch's errors for what cannot be traced, e.g. a branch that depends on a picture's values.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    with torch.no_grad():
        function = torch.func.functionalize(lambda pictures: score(pictures))
        module = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(batch)
        module.graph.eliminate_dead_code()
        return _ordered(*_steps(module))


def _steps(module: fx.GraphModule) -> tuple[Step, Step]:
    """Input and result; what does not depend on the input is computed here, once."""
    known: dict[fx.Node, Step | Tensor] = {}
    for node in module.graph.nodes:
        if node.op == "output":
            return next(iter(known.values())), known[node.args[0]]
        if node.target is aten.as_strided.default:
            raise ValueError("The score reads memory by its strides.")
        if _writes(node):
            raise ValueError("The score writes into a part of a value.")
        if node.op == "placeholder":
            known[node] = Step("input", unpadded)
        elif node.op == "get_attr":
            known[node] = getattr(module, node.target).detach()
        elif any(isinstance(known[parent], Step) for parent in node.all_input_nodes):
            known[node] = _step(node, known)
        else:
            known[node] = _generic(node, known, ())
        value = node.meta.get("val")
        if isinstance(known[node], Step) and isinstance(value, Tensor):
            known[node].shape = tuple(value.shape)
    raise ValueError("The traced score has no output.")


def _writes(node: fx.Node) -> bool:
    """Whether an operation overwrites a value, e.g. in circular padding: what reads that later shows no parent.

    A score that works in place on its input ends in a write to it, which nothing reads.
    """
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable and node.args[0].op != "placeholder"


def _ordered(first: Step, last: Step) -> list[Step]:
    """What the result needs, parents first."""
    order: dict[Step, None] = {first: None}
    waiting = [last]
    while waiting:
        step = waiting[-1]
        missing = [parent for parent in step.parents if parent not in order]
        waiting.extend(missing)
        if not missing:
            order[waiting.pop()] = None
    return list(order)


def _step(node: fx.Node, known: dict) -> Step:
    parents = [known[parent] for parent in node.all_input_nodes if isinstance(known[parent], Step)]
    if node.target is operator.getitem and node.args[1] == 0 and parents[0].kind != "other":
        return parents[0]
    first = node.args[0] if node.args else None
    own = isinstance(first, fx.Node) and isinstance(known[first], Step) and len(parents) == 1
    made = _MAKERS[node.target](node, known) if own and node.target in _MAKERS else None
    if node.target in _BINARY:
        made = _binary(node, known, parents)
    elif node.target is aten.cat.default and len(parents) == len(node.args[0]) and node.args[1:] == (1,):
        made = Step("join", lambda *values: torch.cat(values, 1), parents)
    return made or Step("other", partial(_generic, node, known), parents)


def _generic(node: fx.Node, known: dict, *values: Tensor) -> Tensor:
    """The operation as it stands; `values` are those of its parents that are steps, in their order."""
    steps = [parent for parent in node.all_input_nodes if isinstance(known[parent], Step)]
    given = dict(zip(steps, values, strict=False))
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda parent: given.get(parent, known[parent]))
    return _ANY_LAYOUT.get(node.target, node.target)(*args, **kwargs)


# operations that are computed in part


def _pointwise(node: fx.Node, known: dict) -> Step | None:
    if len(node.all_input_nodes) != 1:
        return None
    before = known[node.args[0]]
    if node.target in _ACTIVATIONS and isinstance(before, _Convolution) and _is_free(before, node.args[0]):
        numbers = node.args[1:] or _ACTIVATIONS[node.target][1:]
        return before.activated((_ACTIVATIONS[node.target][0], *map(float, numbers)))
    made = Step("pointwise", partial(_with_rest, node.target, node), [known[node.args[0]]])
    twin = getattr(aten, node.target._schema.name.removeprefix("aten::") + "_", None)
    if hasattr(twin, "default") and node.target not in _SHARED:
        made.in_place = partial(_with_rest, twin.default, node)
    return made


def _is_free(convolution: "_Convolution", node: fx.Node) -> bool:
    """Whether nothing else reads the convolution, nothing has been taken into it, and no NaN can come to it.

    oneDNN's activations turn NaN into numbers.
    """
    fresh = len(node.users) == 1 and convolution.activation == ("none",)
    return fresh and _has_onednn(convolution.weight) and not any(map(_may_be_nan, node.graph.nodes))


def _may_be_nan(node: fx.Node) -> bool:
    """Whether an operation may give NaN or infinity for finite numbers, overflow aside."""
    name = getattr(node.target, "_schema", None) and node.target._schema.name.removeprefix("aten::")
    divided = name == "div" and isinstance(node.args[1], fx.Node) and node.args[1].op != "get_attr"
    return name in _MAY_BE_NAN or divided


def _with_rest(target: Callable, node: fx.Node, value: Tensor) -> Tensor:
    return target(value, *node.args[1:], **node.kwargs)


def _convolution(node: fx.Node, known: dict) -> Step | None:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = node.args
    if transposed or len(stride) != 2:
        return None
    bias = None if bias is None else known[bias]
    return _convolving(known[x], known[weight], bias, padding, padding, stride, dilation, groups)


def _convolving(parent: Step, weight: Tensor, bias, before, after, stride, dilation, groups) -> Step:
    if parent.inside is unpadded and parent.kernel.fill == 0:  # a padding by zeros of its own
        before = [a + b for a, b in zip(before, parent.kernel.before, strict=True)]
        after = [a + b for a, b in zip(after, parent.kernel.after, strict=True)]
        parent = parent.parents[0]
    extent = tuple((k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True))
    kernel = Kernel(extent, tuple(stride), tuple(before), tuple(after))
    return _Convolution(parent, kernel, weight, bias, tuple(dilation), groups)


class _Convolution(Step):
    """A convolution, which takes a batch norm and a simple activation behind it into itself.

    activation : oneDNN's name of what follows, and its numbers; ("none",) for nothing
    """

    def __init__(
        self,
        parent: Step,
        kernel: Kernel,
        weight: Tensor,
        bias: Tensor | None,
        dilation: Pair,
        groups: int,
        activation: tuple = ("none",),
    ) -> None:
        super().__init__("kernel", self._run, [parent], kernel, self._inside)
        self.weight, self.bias = weight.contiguous(memory_format=torch.channels_last), bias
        self.dilation, self.groups, self.activation = dilation, groups, activation

    def _inside(self, value: Tensor, padding: Sequence[int] = (0, 0)) -> Tensor:
        geometry = (padding, self.kernel.stride, self.dilation, self.groups)
        if self._packed is None:
            geometry = (self.kernel.stride, padding, self.dilation, self.groups)
            return torch.conv2d(value, self.weight, self.bias, *geometry)
        name, *numbers = self.activation
        return torch.ops.mkldnn._convolution_pointwise(
            value, self._packed, self.bias, *geometry, name, numbers, ""
        )

    def _run(self, value: Tensor) -> Tensor:
        if self.kernel.before == self.kernel.after:
            return self._inside(value, self.kernel.before)
        return self._inside(self.kernel.pad(value))

    @cached_property
    def _packed(self) -> Tensor | None:
        """The weights in oneDNN's own order, so that they are not put into it in every call."""
        if not _has_onednn(self.weight):
            return None
        geometry = (self.kernel.before, self.kernel.stride, self.dilation, self.groups)
        return torch.ops.mkldnn._reorder_convolution_weight(self.weight, *geometry, self.parents[0].shape)

    def scaled(self, scale: Tensor, shift: Tensor) -> "_Convolution":
        """This and what follows it, times `scale` plus `shift` for each channel, as one convolution."""
        bias = shift if self.bias is None else self.bias * scale + shift
        weight = self.weight * scale.view(-1, 1, 1, 1)
        return _Convolution(self.parents[0], self.kernel, weight, bias, self.dilation, self.groups)

    def activated(self, activation: tuple) -> "_Convolution":
        """This and the activation that follows it as one operation."""
        settings = (self.weight, self.bias, self.dilation, self.groups, activation)
        return _Convolution(self.parents[0], self.kernel, *settings)


def _has_onednn(weight: Tensor) -> bool:
    known = hasattr(torch.ops.mkldnn, "_convolution_pointwise") and torch.backends.mkldnn.is_available()
    return known and weight.device.type == "cpu" and weight.dtype == torch.float32


def _batch_norm(node: fx.Node, known: dict) -> Step | None:
    """Folded into a convolution that nothing else reads; else a scale and a shift for each channel."""
    x, weight, bias, mean, variance, *rest = node.args
    training = node.target is aten.native_batch_norm.default and rest[0]
    if len(node.meta["val"][0].shape) != 4:
        return None
    if training or any(user.target is not operator.getitem or user.args[1] != 0 for user in node.users):
        return None
    scale = (known[variance] + rest[-1]).rsqrt()
    scale = scale if weight is None else scale * known[weight]
    shift = -known[mean] * scale
    shift = shift if bias is None else shift + known[bias]
    if isinstance(known[x], _Convolution) and len(x.users) == 1 and known[x].activation == ("none",):
        return known[x].scaled(scale, shift)
    scale, shift = scale.view(-1, 1, 1), shift.view(-1, 1, 1)
    return Step("pointwise", lambda value: value * scale + shift, [known[x]])


def _padding(node: fx.Node, known: dict) -> Step | None:
    left, right, top, bottom = node.args[1] if len(node.args[1]) == 4 else (-1,) * 4
    if min(left, right, top, bottom) < 0:
        return None
    fill = node.args[2] if len(node.args) > 2 else 0.0
    kernel = Kernel(before=(top, left), after=(bottom, right), fill=fill)
    return Step("kernel", kernel.pad, [known[node.args[0]]], kernel, unpadded)


def unpadded(value: Tensor) -> Tensor:
    """What a padding does inside a region that has its surroundings already: nothing."""
    return value


def _max_pool(node: fx.Node, known: dict) -> Step | None:
    if any(user.target is not operator.getitem or user.args[1] != 0 for user in node.users):
        return None
    x, size, stride, padding, dilation, ceil = (*node.args, *(None, (), 0, 1, False)[len(node.args) - 1 :])
    if ceil:
        return None
    size, stride, padding, dilation = _pair(size), _pair(stride or size), _pair(padding), _pair(dilation)
    run = partial(F.max_pool2d, kernel_size=size, stride=stride, dilation=dilation)
    extent = tuple((k - 1) * d + 1 for k, d in zip(size, dilation, strict=True))
    kernel = Kernel(extent, stride, padding, padding, fill=float("-inf"))
    return Step("kernel", partial(run, padding=padding), [known[x]], kernel, run)


def _average_pool(node: fx.Node, known: dict) -> Step | None:
    x, size, stride, padding, ceil, counts, divisor = (
        *node.args,
        *(None, (), 0, False, True, None)[len(node.args) - 1 :],
    )
    size, stride, padding = _pair(size), _pair(stride or size), _pair(padding)
    if ceil or divisor is not None or (any(padding) and not counts):
        return None
    run = partial(F.avg_pool2d, kernel_size=size, stride=stride)
    kernel = Kernel(size, stride, padding, padding)
    return Step("kernel", partial(run, padding=padding), [known[x]], kernel, run)


def _pair(value: int | Sequence[int]) -> Pair:
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[-1])


def _binary(node: fx.Node, known: dict, parents: list[Step]) -> Step | None:
    """A map with a constant for each channel or for all, or two maps of one size."""
    others = [known.get(arg, arg) if isinstance(arg, fx.Node) else arg for arg in node.args[:2]]
    constants = [other for other in others if not isinstance(other, Step)]
    run = partial(_generic, node, known)
    if len(parents) == 2:
        equal = parents[0].shape == parents[1].shape
        return Step("join", run, parents) if equal else None
    flat = all(not isinstance(c, Tensor) or c.ndim == 0 or _is_by_channel(c) for c in constants)
    return Step("pointwise", run, parents) if flat and constants else None


def _is_by_channel(constant: Tensor) -> bool:
    return (
        3 <= constant.ndim <= 4
        and constant.shape[-2:] == (1, 1)
        and (constant.ndim == 3 or len(constant) == 1)
    )


_MAKERS = {
    aten.convolution.default: _convolution,
    aten.constant_pad_nd.default: _padding,
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.avg_pool2d.default: _average_pool,
    **dict.fromkeys(_BATCH_NORMS, _batch_norm),
    **dict.fromkeys(_POINTWISE, _pointwise),
}
