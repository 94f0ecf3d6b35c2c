"""Writing CUDA kernel texts: parameters, declarations, and limits of sizes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .source import MOST_INDEX

_WORDS = {"bitand": "and_", "bitor": "or_"}  # words of C++, where it does not expect a name
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*) = (.*)", re.S)


def indent(lines: Iterable[str], by: int = 1) -> list[str]:
    return ["    " * by + line for line in lines]


def declared(lines: Iterable[str], known: Iterable[str] = ()) -> list[str]:
    """Lines `name = expression`, as `kernels/printer.py` collects them, as statements of C++; a name is declared where it first
    stands, unless it is `known`."""
    seen, out = set(known), []
    for line in lines:
        line = re.sub(r"\b(bitand|bitor)\(", lambda m: f"{_WORDS[m[1]]}(", line)
        m = _ASSIGNMENT.fullmatch(line)
        out.append(f"{'' if m is None or m[1] in seen else 'auto '}{line};")
        if m is not None:
            seen.add(m[1])
    return out


def kernel(threads: int, words: int, body: Sequence[str], helpers: Sequence[str] = (), shared: int = 0) -> str:
    """A kernel's text."""
    head = f"KERNEL({threads}, {words}{f', {shared}' if shared else ''}) {{"
    return "\n".join([*helpers, head, *indent(body), "}", ""])


def checked_size(n: int) -> int:
    """A number of elements that kernels can count in 31 bits. Raises ValueError."""
    if n > MOST_INDEX:
        raise ValueError(f"{n} elements; CUDA kernels count up to 2^31 - 1 in one tensor")
    return n


def power_from(n: int) -> int:
    """The least power of two that is n or more."""
    return 1 << max(n - 1, 0).bit_length()


def blocks_for(units: int, threads: int) -> int:
    """How many blocks of so many threads it takes to have a thread for each unit."""
    return -(-units // threads)
