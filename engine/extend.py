"""Operators, converters, rewrites and passes of the user's own.

    @gm.op("smooth_relu", domain="my.ops")
    def smooth_relu(x, *, beta=1.0):
        return x / (1 + np.exp(-beta * x))

makes ONNX nodes `my.ops::SmoothRelu` run: traced once as an elementwise expression, it fuses and compiles like a built-in operator.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence

from ..frontends import registry
from ..ir import ops as _families  # noqa: F401  (the built-in operators come first: a user's must not take one of their names)
from ..ir.equations import Guard, equation
from ..ir.errors import IRError
from ..ir.op import OPS, Infer, Onnx, OpDef, elementwise
from ..ir.op import op as declare
from ..ir.passes import user
from ..ir.passes.manager import register as register_pass
from ..ir.rewrite import Rule
from ..ir.scalar import trace
from ..ir.types import F32, FLOATS, DType

__all__ = ["converter", "op", "register_pass", "rewrite"]


def op(name: str, *, domain: str = "custom", op_type: str | None = None, infer: Infer | None = None,
       results: int = 1, dtypes: Iterable[DType] = FLOATS, traits: Sequence[str] = ()) -> Callable[[Callable], OpDef]:  # fmt: skip
    """Makes an operator of a numpy function: positional parameters are operands, keyword-only ones attributes.

    ONNX nodes `domain::op_type` (default: the name in CamelCase) become this operator. A function of numpy's elementwise functions,
    arithmetic, comparisons and np.where is traced and compiled for every element type in `dtypes`; any other runs as it stands, on
    the host, and needs `infer`, a function from `graphmill.ir.op.InferContext` to the type of the result (or a list of the types of
    `results` results, which the function returns as a tuple). Raises TypeError where neither fits, IRError where the name, or the
    ONNX operator, is taken.
    """

    def make(fn: Callable) -> OpDef:
        form = Onnx(op_type or "".join(w.capitalize() for w in name.split("_")), domain)
        _check_free(form)
        if infer is not None:
            return declare(name, infer=infer, onnx=form, traits=traits, results=results)(fn)
        try:
            _trace_f32(fn)
        except Exception as e:
            raise TypeError(f"{name} is no elementwise function ({e}); give op(..., infer=...) to run it on the host") from e
        return elementwise(name, onnx=form, dtypes=frozenset(dtypes), traits=traits)(fn)

    return make


def _check_free(form: Onnx) -> None:
    """Raises IRError where models' nodes of this operator are served already: a second record would never be asked."""
    found = OPS.by_onnx(form.domain, form.op_type)
    if found is not None:
        raise IRError(f"ONNX's {form.domain or 'ai.onnx'}::{form.op_type} is the operator {found[1].name} already; "
                      "give another domain or op_type, or register a converter, which goes before it")  # fmt: skip


def _trace_f32(fn: Callable) -> None:
    params = inspect.signature(fn).parameters.values()
    if any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in params):
        raise TypeError("every attribute needs a default")
    count = sum(p.kind is not p.KEYWORD_ONLY for p in params)
    trace(fn, [F32] * count, {p.name: p.default for p in params if p.kind is p.KEYWORD_ONLY})


def converter(domain: str, op_type: str) -> Callable[[registry.Converter], registry.Converter]:
    """Registers `fn(builder, call)`, which returns the Values of the node's outputs, as the way to import ONNX nodes
    `domain::op_type`: see `graphmill.frontends.registry`. It goes before everything that is built in; the last one counts."""
    from ..frontends.onnx import contrib as _  # noqa: F401  (the built-in converters: a later registration would replace the user's)

    return registry.converter(domain, op_type)


def rewrite(text: str, guard: Guard | None = None) -> Rule:
    """Adds a rewrite rule, written as an equation (`graphmill.ir.equations`), to the pass `user` of the usual pipeline.

    `guard(match)` returns None to let a match pass, or the reason for refusing it.
    """
    rule = equation(text, guard)
    user.RULES.append(rule)
    return rule
