"""Calls of the names that kernel texts may use (kernels/cpu/language.py), as calls of the prelude's functions (scalar.cuh)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ...ir.types import DTYPES
from ..printer import register, supported
from .terms import FLOATS, INTEGERS, NotPortable, Term, called, cast, chosen, compare, lift, promoted

REGISTERS = {name: "bool" if name == "bool" else register(d) for name, d in DTYPES.items() if supported(d)}
_VECTORS = re.compile(r"(ldv|stv|ldm|stm)_\w+|LANES|splat|lane|head|h(sum|prod|min|max|or|and)|transpose_u\d+|gemm_panel|\w+_tile|"
                      r"int_panel|combine")  # fmt: skip
_UNARY = frozenset(
    """square neg bitnot absolute sign floor ceil trunc rint not_ exp expm1 log log1p erf sqrt sin cos tan asin acos atan sinh cosh
    tanh asinh acosh atanh softmax_exp""".split()  # noqa: SIM905
)
_BINARY = frozenset(
    "add sub mul div floordiv mod fmod minimum maximum pow_ atan2 and_ or_ xor_ bitand bitor bitxor shl shr".split()  # noqa: SIM905
)
_TESTS = {"isnan": 1, "isinf": 1} | dict.fromkeys(("lt", "le", "gt", "ge", "eq", "ne"), 2)
_ARITY = dict.fromkeys(_UNARY, 1) | dict.fromkeys(_BINARY, 2) | _TESTS | {"fma": 3}
_IN_CPP = {"bitand": "and_", "bitor": "or_"}  # the two are words of C++
_TYPED = re.compile(r"(ld|st|get|put|to)_([a-z0-9]+)|bits_([a-z0-9]+)_([a-z0-9]+)")


def unknown(name: str) -> NotPortable:
    if _VECTORS.fullmatch(name):
        return NotPortable("the text works on vectors", name=name)
    return NotPortable("a name that CUDA texts do not have", name=name)


def intrinsic(name: str, args: Sequence[Any]) -> Any:
    """A call of a name of the prelude."""
    if name in ("min", "max", "abs"):
        return _builtin(name, args)
    terms = [lift(a) for a in args]
    if name in _ARITY:
        return _arithmetic(_IN_CPP.get(name, name), _ARITY[name], terms)
    if name in ("f32", "f64", *INTEGERS):
        return cast(lift(args[0], name), name)
    if name == "where":
        _same(name, terms[1:])
        return called(name, terms[1].type, cast(terms[0], "bool"), *terms[1:])
    if name == "ipow":
        return called(name, "i64", *terms)
    if name in ("memcpy", "memset"):
        return _loose(name, "", *(cast(x, "i64") for x in terms))
    m = _TYPED.fullmatch(name)
    if m is None or not all(g in REGISTERS for g in m.groups()[1:] if g):
        raise unknown(name)
    return _memory_or_cast(m, terms)


def _memory_or_cast(m: re.Match[str], terms: list[Term]) -> Term:
    kind, dtype, source, to = m.groups()
    if kind is None:
        return called(m[0], REGISTERS[to], cast(terms[0], REGISTERS[source]))
    t = REGISTERS[dtype]
    if kind == "to":
        return terms[0] if terms[0].type == dtype == t else called(m[0], t, terms[0])
    at = [cast(x, "i64") for x in terms[:2]]
    return _loose(m[0], t if kind in ("ld", "get") else "", *at, *(cast(x, t) for x in terms[2:]))


def _loose(name: str, t: str, *args: Term) -> Term:
    """A call of a function that takes integers of any type for i64."""
    given = [Term(a.bare or a.text, a.type, reads=a.reads) if a.type == "i64" else a for a in args]
    return called(name, t, *given)


def _same(name: str, terms: Sequence[Term]) -> None:
    types = {x.type for x in terms}
    if len(types) != 1:
        raise NotPortable(f"{name} of different types", types=sorted(types))


def _arithmetic(name: str, arity: int, terms: Sequence[Term]) -> Term:
    if len(terms) != arity:
        raise NotPortable(f"{name} of {len(terms)} operands, expected {arity}")
    _same(name, terms)
    return called(name, "bool" if name in _TESTS else terms[0].type, *terms)


def _builtin(name: str, xs: Sequence[Any]) -> Any:
    """min, max, abs; the first two take the first operand where a comparison with NaN decides."""
    if not any(isinstance(x, Term) for x in xs):
        return {"min": min, "max": max, "abs": lambda x: abs(x)}[name](*xs)
    if name == "abs":
        return called("absolute", xs[0].type, lift(xs[0]))
    first, *rest = promoted(*xs)
    for x in rest:
        if x.type in FLOATS:
            first = chosen(joined_test(name, x, first), x, first)
        else:
            first = called("minimum" if name == "min" else "maximum", x.type, first, x)
    return first


def joined_test(name: str, x: Term, y: Term) -> Term:
    return compare("<" if name == "min" else ">", x, y)
