"""Rewrite rules written as equations: `mul(x, sigmoid(x)) => swish(x)`.

Both sides are expressions of operator calls; names stand for any value (one name, one value), numbers for scalar constants (those
that f16 does not hold for constants near them). On the right, keyword arguments are attributes, and a bare name is a value of the
left side.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import IRError
from .op import OPS
from .rewrite import Builder, Match, Pattern, Refusal, Rule, refuse

Guard = Callable[[Match], "Refusal | str | bool | None"]


def equation(text: str, guard: Guard | None = None) -> Rule:
    """The rule of an equation. `guard(match)` may refuse: it returns a Refusal, or a reason as text; None or True lets it pass.

    Where the right side has another type than the left the rule refuses. Raises IRError for text that is no equation, an operator
    that does not exist, or a right side that uses an unknown name.
    """
    left, arrow, right = text.partition("=>")
    if not arrow:
        raise IRError(f"{text!r} is no equation; expected 'pattern => replacement'")
    pattern, replacement = _pattern(_parse(left)), _parse(right)
    if not isinstance(pattern, Pattern):
        raise IRError(f"the left side of {text!r} must be a call of an operator")
    unknown = _names(replacement) - _names(_parse(left))
    if unknown:
        raise IRError(f"the right side of {text!r} uses {sorted(unknown)}, which the left side does not bind")
    _check_ops(replacement)

    def build(m: Match, b: Builder) -> Any:
        verdict = guard(m) if guard is not None else None
        if isinstance(verdict, Refusal):
            return verdict
        if verdict is False or isinstance(verdict, str):
            return refuse(verdict or "the guard said no")
        value = _build(replacement, m, b)
        if value.type != m.root.result.type:
            b.undo()
            return refuse("types", result=m.root.result.type, replacement=value.type)
        return value

    return Rule(text.strip(), pattern, build)


def _parse(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise IRError(f"{text.strip()!r} cannot be read as an expression: {e}") from None


def _check_ops(e: ast.expr) -> None:
    for node in ast.walk(e):
        if isinstance(node, ast.Call):
            OPS[_op_name(node)]


def _op_name(e: ast.Call) -> str:
    if not isinstance(e.func, ast.Name):
        raise IRError(f"{ast.unparse(e.func)} is no operator's name")
    return e.func.id


def _names(e: ast.expr) -> set[str]:
    called = {id(n.func) for n in ast.walk(e) if isinstance(n, ast.Call)}
    return {n.id for n in ast.walk(e) if isinstance(n, ast.Name) and id(n) not in called}


def _pattern(e: ast.expr) -> Any:
    if isinstance(e, ast.Name):
        return e.id
    if isinstance(e, ast.Call):
        if e.keywords:
            raise IRError(f"{ast.unparse(e)}: a pattern has no attributes; test them in the guard")
        OPS[_op_name(e)]
        return Pattern(_op_name(e), *(_pattern(a) for a in e.args))
    return _literal(e)


def _literal(e: ast.expr) -> Any:
    try:
        return ast.literal_eval(e)
    except ValueError:
        raise IRError(f"{ast.unparse(e)} is neither a call, a name nor a number") from None


def _build(e: ast.expr, m: Match, b: Builder) -> Any:
    if isinstance(e, ast.Name):
        return m[e.id]
    if isinstance(e, ast.Call):
        operands = [_build(a, m, b) for a in e.args]
        attrs = {str(k.arg): _literal(k.value) for k in e.keywords}
        return b.op(_op_name(e), *operands, **attrs)
    return b.const(np.asarray(_literal(e), m.root.result.tensor.dtype.np))
