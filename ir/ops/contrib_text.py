"""Operators of ONNX Runtime's domain com.microsoft over strings: what exported text vectorizers are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..op import InferContext, Onnx, ex, op
from ..types import F32, F64, I32, I64, STR, U32, U64, TensorType
from .contents import want_rank
from .regex import Regex

MICROSOFT = "com.microsoft"
START, END = "\x02", "\x03"
WORD = 0xFFFFFFFF


# ---- tokens


def _infer_tokenizer(c: InferContext) -> TensorType:
    want_rank(c, 0, 1, 2)
    try:
        _splitter(c.attr("separators"), c.attr("tokenexp"), c.attr("mincharnum"))
    except ValueError as e:
        raise c.error(str(e)) from None
    shape = c.shape(0)
    return TensorType(STR, None if shape is None else (*shape, c.symbol()))


def _splitter(separators: Sequence[str] | None, tokenexp: str | None, mincharnum: int) -> Callable[[str], list[str]]:
    """The function from a text to its tokens. Raises ValueError for attributes that ONNX Runtime refuses as well."""
    if not separators and not tokenexp:
        raise ValueError("neither separators nor tokenexp are given")
    if list(separators) == [""] if separators else tokenexp == ".":
        if mincharnum > 1:
            raise ValueError(f"mincharnum = {mincharnum} leaves no token of one character")
        return list
    if not separators:
        token = Regex(str(tokenexp))
        return lambda text: [text[a:b] for a, b in token.spans(text) if b - a >= mincharnum]
    gaps = [Regex(s) for s in separators]
    if any(g.matches("") for g in gaps):
        raise ValueError(f"one of the separators {list(separators)} matches the empty text")

    def split(text: str) -> list[str]:
        parts = [text]
        for gap in gaps:
            parts = [piece for part in parts for piece in _between(part, gap.spans(part))]
        return [p for p in parts if len(p) >= max(mincharnum, 1)]

    return split


def _between(text: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    """What `spans` leave of a text."""
    starts, ends = [0, *(b for _, b in spans)], [*(a for a, _ in spans), len(text)]
    return [text[a:b] for a, b in zip(starts, ends)]


def _tokenizer_examples() -> list:
    x = np.array(["abab b;a", "c", ""], object)
    common: dict[str, Any] = {"pad_value": "#", "mincharnum": 1}
    return [
        ex(x, tokenexp="a|ab", **common),
        ex(x, tokenexp="c*", mark=1, **common),
        ex(x, tokenexp=".", mark=1, **common),
        ex(x, separators=("",), **common),
        ex(x, separators=(" ", ";"), mark=1, **common),
        ex(np.array([["a1bb22ccc", "éé é"], ["", "x"]], object), separators=("[0-9]+", " "), pad_value="", mincharnum=2),
        ex(x[2:], separators=(" ",), mark=1, **common),
        ex(x[:0], tokenexp="a", name="no_texts", **common),
        ex(np.array(["axyzb"], object), separators=("yz", "xy"), **common),
        ex(np.array(["naïve café_1 x"], object), tokenexp=r"\b\w\w+\b", **common),
    ]


@op(
    "tokenizer",
    onnx=Onnx("Tokenizer", MICROSOFT),
    infer=_infer_tokenizer,
    dtypes={"x": {STR}},
    examples=_tokenizer_examples,
)
def tokenizer(x, *, mark=0, mincharnum=1, pad_value="", separators=None, tokenexp=None):
    """The tokens of each text along a new last axis, filled up with `pad_value`; with `mark` between \\x02 and \\x03.

    Tokens are what is between matches of the `separators`, which are applied one after the other, or the matches of `tokenexp`
    (leftmost, then longest), of at least `mincharnum` characters. One empty separator, or the tokenexp `.`, means characters.
    """
    split = _splitter(separators, tokenexp, mincharnum)
    rows = [split(text) for text in x.ravel()]
    if not any(rows):
        return np.zeros((*x.shape, 0), object)
    if mark:
        rows = [[START, *row, END] for row in rows]
    out = np.full((len(rows), max(map(len, rows))), pad_value, object)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out.reshape(*x.shape, -1)


# ---- hashes


def murmur3(data: bytes, seed: int) -> int:
    """MurmurHash3_x86_32 (A. Appleby, public domain), as an unsigned number."""

    def rotated(v: int, by: int) -> int:
        return (v << by | v >> (32 - by)) & WORD

    h = seed & WORD
    for at in range(0, len(data), 4):
        block = data[at : at + 4]
        k = rotated(int.from_bytes(block, "little") * 0xCC9E2D51 & WORD, 15) * 0x1B873593 & WORD
        h ^= k
        if len(block) == 4:
            h = (rotated(h, 13) * 5 + 0xE6546B64) & WORD
    h ^= len(data)
    h = (h ^ h >> 16) * 0x85EBCA6B & WORD
    h = (h ^ h >> 13) * 0xC2B2AE35 & WORD
    return h ^ h >> 16


def _murmur_examples() -> list:
    texts = np.array([["", "a", "abc"], ["abcd", "hello world", "é"]], object)
    return [
        ex(texts),
        ex(texts, positive=0, seed=7),
        ex(np.array([0, 1, -5], np.int64), positive=0),
        ex(np.array([1.5, -0.0], np.float32), seed=3),
        ex(np.array([3.25]), positive=0),
        ex(np.zeros(0, np.int32)),
    ]


@op(
    "murmur_hash3",
    onnx=Onnx("MurmurHash3", MICROSOFT),
    infer=lambda c: c.t(0).with_(dtype=U32 if c.attr("positive") else I32),
    dtypes={"x": {I32, U32, I64, U64, F32, F64, STR}},
    examples=_murmur_examples,
)
def murmur_hash3(x, *, positive=1, seed=0):
    """The 32-bit MurmurHash3 of each element's bytes (of a text's UTF-8): u32 where `positive`, else the same bits as i32."""
    parts = (v.encode() for v in x.ravel()) if x.dtype == object else (v.tobytes() for v in x.ravel())
    out = np.array([murmur3(p, seed) for p in parts], np.uint32).reshape(x.shape)
    return out if positive else out.view(np.int32)
