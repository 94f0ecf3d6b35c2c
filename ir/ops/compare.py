"""Comparison, logic, tests and choice, element by element."""

from __future__ import annotations

import numpy as np

from ..op import Example, Onnx, elementwise, ex
from ..scalar import Expr, call, const
from ..scalar import where as choose
from ..types import BF16, BOOL, C64, C128, DTYPES, FLOAT8, FLOATS, INTEGERS, NUMERIC, STR
from .examples import f32, rand
from .math import arithmetic

F8_WITH_NAN = FLOAT8 - {DTYPES["f8e8m0"]}  # the float8 types that operators on numbers take


def _ordered() -> list[Example]:
    a, b = f32([[1, np.nan, -0.0, np.inf]]), f32([[1], [0]])
    ints = np.array([-1, 0, 5])
    return [
        ex(a, b),
        ex(np.zeros((0, 2), np.float32), f32([1, 2])),
        ex(ints.astype(np.int64), np.int64(0)),
        ex(ints.astype(np.int8), ints[::-1].astype(np.int8)),
        ex(np.array([0, 2**64 - 1], np.uint64), np.array([1, 2**64 - 2], np.uint64)),
        ex(a.astype(np.float16), b.astype(np.float16)),
        ex(a.astype(BF16.np), b.astype(BF16.np)),
        ex(a.astype(np.float64), b.astype(np.float64)),
    ]


def _equals() -> list[Example]:
    flags = rand(3, dtype=bool)
    text = np.array(["a", "", "ß"], object)
    return [*_ordered(), ex(flags, flags[::-1].copy()), ex(text, np.array("a", object)), ex(text, np.array([["a"], ["b"]], object))]


@elementwise("equal", onnx=arithmetic("Equal"), dtypes=NUMERIC | {BOOL, STR}, examples=_equals)
def equal(a: Expr, b: Expr) -> Expr:
    """a == b."""
    return a == b


@elementwise("greater", onnx=arithmetic("Greater"), dtypes=NUMERIC, examples=_ordered)
def greater(a: Expr, b: Expr) -> Expr:
    """a > b; false where either is NaN."""
    return a > b


@elementwise("less", onnx=arithmetic("Less"), dtypes=NUMERIC, examples=_ordered)
def less(a: Expr, b: Expr) -> Expr:
    """a < b; false where either is NaN."""
    return a < b


@elementwise("greater_or_equal", onnx=Onnx("GreaterOrEqual", since=12), dtypes=NUMERIC, examples=_ordered)
def greater_or_equal(a: Expr, b: Expr) -> Expr:
    """a >= b; false where either is NaN."""
    return a >= b


@elementwise("less_or_equal", onnx=Onnx("LessOrEqual", since=12), dtypes=NUMERIC, examples=_ordered)
def less_or_equal(a: Expr, b: Expr) -> Expr:
    """a <= b; false where either is NaN."""
    return a <= b


def _flags() -> list[Example]:
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    return [ex(a, b), ex(a[:2].reshape(2, 1), b), ex(np.bool_(True), b), ex(np.zeros((0,), bool), np.bool_(True))]


@elementwise("and", onnx=arithmetic("And"), dtypes={BOOL}, examples=_flags)
def and_(a: Expr, b: Expr) -> Expr:
    """Whether both are true."""
    return a & b


@elementwise("or", onnx=arithmetic("Or"), dtypes={BOOL}, examples=_flags)
def or_(a: Expr, b: Expr) -> Expr:
    """Whether either is true."""
    return a | b


@elementwise("xor", onnx=arithmetic("Xor"), dtypes={BOOL}, examples=_flags)
def xor(a: Expr, b: Expr) -> Expr:
    """Whether just one is true."""
    return a ^ b


@elementwise("not", onnx="Not", dtypes={BOOL}, examples=lambda: [ex(*e.operands[1:]) for e in _flags()])
def not_(x: Expr) -> Expr:
    """Whether x is false."""
    return ~x


def _special() -> list[Example]:
    x = f32([np.nan, 1, np.inf, -np.inf, 0])
    f8 = [ex(x.astype(d.np)) for d in sorted(F8_WITH_NAN, key=str)]
    return [ex(x), ex(x.astype(np.float16)), ex(x.astype(BF16.np)), ex(x.astype(np.float64)), ex(np.zeros((0, 2), np.float32)), *f8]


@elementwise("isnan", onnx=Onnx("IsNaN", since=9), dtypes=FLOATS | F8_WITH_NAN, examples=_special)
def isnan(x: Expr) -> Expr:
    """Whether x is NaN."""
    return call("isnan", x)


def _infinities() -> list[Example]:
    x = f32([[np.nan, 1, np.inf, -np.inf]])
    one_sided = [ex(x, detect_negative=0), ex(x, detect_positive=0), ex(x, detect_negative=0, detect_positive=0)]
    return _special() + one_sided


@elementwise("isinf", onnx=Onnx("IsInf", since=10), dtypes=FLOATS | F8_WITH_NAN, examples=_infinities)
def isinf(x: Expr, *, detect_negative: int = 1, detect_positive: int = 1) -> Expr:
    """Whether x is infinite, of the signs asked for."""
    if detect_negative and detect_positive:
        return call("isinf", x)
    if not detect_negative and not detect_positive:
        return const(False, BOOL)
    return call("isinf", x) & ((x < 0) if detect_negative else (x > 0))


def _choices() -> list[Example]:
    c, a, b = np.array([[True], [False]]), rand(2, 3), rand(3, seed=1)
    kinds = (np.float64, np.float16, BF16.np, np.int64, np.uint8, bool, np.complex64)
    return [
        ex(c, a, b),
        ex(np.bool_(False), a, b),
        ex(np.array([True, False]), np.array(["a", "b"], object), np.array("c", object)),
        ex(np.zeros((0, 1), bool), np.float32(1), f32([1, 2])),
        *(ex(c, a.astype(k), b.astype(k)) for k in kinds),
    ]


@elementwise("where", onnx=Onnx("Where", since=9), dtypes={"condition": {BOOL}, "x": NUMERIC | {BOOL, STR, C64, C128},
             "y": NUMERIC | {BOOL, STR, C64, C128}}, examples=_choices)  # fmt: skip
def where(condition: Expr, x: Expr, y: Expr) -> Expr:
    """x where the condition holds, else y."""
    return choose(condition, x, y)


# ---- bits -------------------------------------------------------------------------------------------------------


def _bits() -> list[Example]:
    a, b = np.array([[0b1100], [-1]]), np.array([0b1010, 0, 7])
    signed = [ex(a.astype(t), b.astype(t)) for t in (np.int64, np.int32, np.int16, np.int8)]
    unsigned = [ex(a.astype(t), b.astype(t)) for t in (np.uint64, np.uint32, np.uint16, np.uint8)]
    return [*signed, *unsigned, ex(np.zeros((0, 2), np.int32), np.int32(1))]


@elementwise("bitwise_and", onnx=Onnx("BitwiseAnd", since=18), dtypes=INTEGERS, examples=_bits)
def bitwise_and(a: Expr, b: Expr) -> Expr:
    """The bits that both have."""
    return a & b


@elementwise("bitwise_or", onnx=Onnx("BitwiseOr", since=18), dtypes=INTEGERS, examples=_bits)
def bitwise_or(a: Expr, b: Expr) -> Expr:
    """The bits that either has."""
    return a | b


@elementwise("bitwise_xor", onnx=Onnx("BitwiseXor", since=18), dtypes=INTEGERS, examples=_bits)
def bitwise_xor(a: Expr, b: Expr) -> Expr:
    """The bits that just one has."""
    return a ^ b


@elementwise(
    "bitwise_not", onnx=Onnx("BitwiseNot", since=18), dtypes=INTEGERS, examples=lambda: [ex(e.operands[0]) for e in _bits()]
)
def bitwise_not(x: Expr) -> Expr:
    """All bits inverted."""
    return ~x


def _shifts() -> list[Example]:
    out = []
    for direction in ("LEFT", "RIGHT"):
        for t in (np.uint8, np.uint16, np.uint32, np.uint64):
            x = np.array([[1, 200, 3]], t)
            out.append(ex(x, np.array([[0], [1], [5]], t), direction=direction))
        for s in (np.int8, np.int64):
            x = np.array([-128, 100, -1, 5, -7], s)
            out.append(ex(x, np.array([1, 2, 70, 64, -1], s), direction=direction))
    return out


@elementwise("bit_shift", onnx=Onnx("BitShift", since=11), dtypes=INTEGERS, examples=_shifts)
def bit_shift(x: Expr, y: Expr, *, direction: str) -> Expr:
    """x shifted by y bits; a signed x keeps its sign to the right. Out of range amounts leave only the sign's fill."""
    if direction not in ("LEFT", "RIGHT"):
        raise TypeError(f'direction = "{direction}"; expected "LEFT" or "RIGHT"')
    return x << y if direction == "LEFT" else x >> y
