"""Cheaper forward-mode rules for the three functions that networks spend their time in.

    linear, conv1d   d(W x + b) = W dx              torch adds dW x, a whole product with a dW of zeros
    layer_norm       d(n) = (dx - mean dx - n mean(n dx)) / s,   n = (x - mean) / s;   torch: some forty small steps

Within `lean()` they replace torch's own; values and derivatives are the same up to rounding. Only what lies on the path
is differentiated: weights must be constants, as they are in a JVP along inputs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

LINEAR = (functional.linear, functional.conv1d)


class Linear(torch.autograd.Function):
    """Whatever is linear in its first argument, with weight and bias as second and third."""

    @staticmethod
    def forward(function: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None, *more: Any) -> Tensor:
        return function(x, weight, bias, *more)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.function, _, weight, _, *ctx.more = inputs
        ctx.save_for_forward(weight)
        ctx.set_materialize_grads(False)  # no zeros for the constants

    @staticmethod
    def jvp(ctx: Any, _: None, dx: Tensor, *constants: None) -> Tensor:
        (weight,) = ctx.saved_tensors
        return ctx.function(dx, weight, None, *ctx.more)


class LayerNorm(torch.autograd.Function):
    """Over the last axis, without weight and bias: they are applied outside."""

    @staticmethod
    def forward(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        normal, _, reciprocal = torch.native_layer_norm(x, x.shape[-1:], None, None, epsilon)
        return normal, reciprocal

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_forward(*output)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, _: None) -> tuple[Tensor, None]:
        normal, reciprocal = ctx.saved_tensors
        across = (normal * dx).mean(-1, keepdim=True)
        return (dx - dx.mean(-1, keepdim=True) - normal * across) * reciprocal, None


class lean(TorchFunctionMode):  # noqa: N801 (used as a context manager, like torch.no_grad)
    """`with lean(): torch.func.jvp(...)`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in LINEAR and not kwargs and len(args) > 2:
            return Linear.apply(func, *args)
        if func is functional.layer_norm:
            return layer_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def layer_norm(
    x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """As functional.layer_norm."""
    if len(shape) != 1:
        return functional.layer_norm(x, shape, weight, bias, eps)
    outputs: Any = LayerNorm.apply(x, eps)
    normal = outputs[0] if weight is None else outputs[0] * weight
    return normal if bias is None else normal + bias
