"""Operators, converters, rewrites and passes of the user's own.

    @gm.op("smooth_relu", domain="my.ops")
    def smooth_relu(x, *, beta=1.0):
        return x / (1 + np.exp(-beta * x))

makes ONNX nodes `my.ops::SmoothRelu` run: traced once as an elementwise expression, it fuses and compiles like a built-in operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..frontends.registry import converter
from ..ir.equations import Guard, equation
from ..ir.op import Infer, Onnx, OpDef, elementwise
from ..ir.op import op as declare
from ..ir.passes import user
from ..ir.passes.manager import register as register_pass
from ..ir.rewrite import Rule
from ..ir.scalar import trace
from ..ir.types import F32, FLOATS, DType

__all__ = ["converter", "op", "register_pass", "rewrite"]


def op(name: str, *, domain: str = "custom", op_type: str | None = None, infer: Infer | None = None,
       dtypes: Iterable[DType] = FLOATS, traits: Sequence[str] = ()) -> Callable[[Callable], OpDef]:  # fmt: skip
    """Makes an operator of a numpy function: positional parameters are operands, keyword-only ones attributes.

    ONNX nodes `domain::op_type` (default: the name in CamelCase) become this operator. A function of numpy's elementwise functions,
    arithmetic, comparisons and np.where is traced and compiled; any other runs as it stands, on the host, and needs `infer`,
    a function from `graphmill.ir.op.InferContext` to the type of the result (or a list of types). Raises TypeError where neither fits.
    """

    def make(fn: Callable) -> OpDef:
        form = Onnx(op_type or "".join(w.capitalize() for w in name.split("_")), domain)
        if infer is not None:
            return declare(name, infer=infer, onnx=form, traits=traits)(fn)
        try:
            _trace_f32(fn)
        except Exception as e:
            raise TypeError(f"{name} is no elementwise function ({e}); give op(..., infer=...) to run it on the host") from e
        return elementwise(name, onnx=form, dtypes=frozenset(dtypes), traits=traits)(fn)

    return make


def _trace_f32(fn: Callable) -> None:
    import inspect

    params = inspect.signature(fn).parameters.values()
    if any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in params):
        raise TypeError("every attribute needs a default")
    count = sum(p.kind is not p.KEYWORD_ONLY for p in params)
    trace(fn, [F32] * count, {p.name: p.default for p in params if p.kind is p.KEYWORD_ONLY})


def rewrite(text: str, guard: Guard | None = None) -> Rule:
    """Adds a rewrite rule, written as an equation (`graphmill.ir.equations`), to the pass `user` of the usual pipeline.

    `guard(match)` returns None to let a match pass, or the reason for refusing it.
    """
    rule = equation(text, guard)
    user.RULES.append(rule)
    return rule
