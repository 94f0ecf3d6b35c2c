"""CUDA kernel texts to one program: prelude.cuh, tensor.cuh, scalar.cuh, then each text in a namespace of its own.

A text holds one `KERNEL(threads, words[, bytes of dynamic shared memory]) { ... }`, its three numbers in decimal, and the helpers
(`DEVICE`) and constants that it needs; the three files say what it may use. Its function has C linkage and is named after the hash
of the text, so that the same text has the same entry in whatever program it stands. No size is compiled in: what a kernel wants to
know comes as `words`, 64-bit integers passed by value.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ...ir.errors import GraphmillError
from ...ir.recording import opaque
from . import library

FILES = ("prelude.cuh", "tensor.cuh", "scalar.cuh")  # in this order: each may use what stands before it
MOST_THREADS = 1024  # of a block, on every CUDA device
MOST_WORDS = 4096 // 8  # 4 KiB of parameters
MOST_INDEX = 2**31 - 1
_KERNEL = re.compile(r"^[ \t]*KERNEL\(\s*(\d+)\s*,\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)", re.M)


class KernelTextError(GraphmillError):
    """A CUDA kernel text is not of the form that every text has."""


class Shape(NamedTuple):
    """What a launch must know of a kernel: threads of a block, words of parameters, bytes of dynamic shared memory."""

    threads: int
    words: int
    shared: int


@functools.cache
def prelude() -> str:
    """What stands before the texts of every program."""
    here = Path(__file__).parent
    return "".join(f'#line 1 "{name}"\n{(here / name).read_text()}' for name in FILES)


def entry(text: str) -> str:
    """The name of a text's kernel."""
    return f"k_{hashlib.sha256(text.encode()).hexdigest()}"


def shape_of(text: str) -> Shape:
    """What the text's KERNEL says. Raises KernelTextError."""
    found = _KERNEL.findall(text)
    if len(found) != 1:
        raise KernelTextError(f"a CUDA kernel text has {len(found)} lines that begin with KERNEL(threads, words[, shared bytes]) "
                              f"in decimal numbers; expected one\n{text}")  # fmt: skip
    shape = Shape(*(int(n or 0) for n in found[0]))
    if not 1 <= shape.threads <= MOST_THREADS or not 1 <= shape.words <= MOST_WORDS:
        raise KernelTextError(f"{shape}: expected 1 to {MOST_THREADS} threads and 1 to {MOST_WORDS} words")
    return shape


@functools.lru_cache(maxsize=4096)
def words_of(text: str) -> int:
    """How many words of parameters a kernel takes, or a library's call. Remembered: it is asked for each launch that is bound."""
    return library.read(text).words if library.is_library(text) else shape_of(text).words


def program(texts: Iterable[str]) -> str:
    """The translation unit of these texts, each once. Raises KernelTextError."""
    parts = [prelude()]
    for text in dict.fromkeys(texts):
        shape_of(text)
        name = entry(text)
        parts.append(f'#define NAME {name}\nnamespace graphmill::n{name} {{\n#line 1 "{name}"\n{text}\n}}\n#undef NAME\n')
    return "".join(parts)


def fast_div(divisor: int) -> int:
    """The word from which `FastDiv` (prelude.cuh) divides u32 below 2^31 by `divisor` without a division.

    With l = ceil(log2 d), the quotient is n * ceil(2^(31+l) / d) >> (31+l) for all n < 2^31 (Granlund and Montgomery, Division by
    invariant integers using multiplication, 1994, theorem 4.2). The word holds the multiplier above the divisor; the device finds
    l by counting zeros. The divisor 0 is taken as 1: it is the size of an empty axis, by which nobody divides.
    """
    return opaque(_fast_div, divisor)


def _fast_div(divisor: int) -> int:
    if not 0 <= divisor <= MOST_INDEX:
        raise ValueError(f"a size of {divisor}: expected 0 to 2^31 - 1")
    d = max(divisor, 1)
    bits = (d - 1).bit_length()
    magic = -(-(1 << 31 + bits) // d)  # of 32 bits, the first of which is set: as an i64 the word is negative
    return (magic - (1 << 32)) * (1 << 32) + d
