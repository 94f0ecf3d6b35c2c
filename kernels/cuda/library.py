"""Texts of kernels that are calls of NVIDIA's libraries.

Such a text is no C++: its first line says whose call it is, the others are what is compiled in, a name and its value each.

    LIBRARY cublaslt matmul
    words 13
    type f16
    a 0
    ...

`words` is how many words of parameters there are, laid out as a kernel's: addresses of operands, of results, of scratch memory,
then the launch's integers. Values that say where something stands among them ("a 0") are slots. As a kernel's, the text is
canonical: it says nothing of names or sizes. A driver carries it out by the library (cublaslt.py) or by numpy (library_shim.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...ir.errors import GraphmillError

FIRST = "LIBRARY "
SCRATCH = 32 << 20  # bytes of scratch memory of a call: about what cuBLAS takes by itself on sm_90
ALIGNED = 256  # where the workspace begins in it; in an arena scratch memory begins at multiples of 64
WORKSPACE = SCRATCH - ALIGNED


class CudaLibraryError(GraphmillError):
    """A library refuses what it was asked for."""


@dataclass(frozen=True)
class Declaration:
    """What a text says: the library, what it shall do, how many words it takes, and what is compiled in."""

    library: str
    what: str
    words: int
    fields: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.fields[name]

    def ints(self, name: str) -> list[int]:
        """A field's integers."""
        return [int(n) for n in self.fields[name].split()]

    def address(self, name: str, words: list[int]) -> int:
        """What stands in the slot that a field names; 0 where the field is left out."""
        return words[int(self.fields[name])] if name in self.fields else 0

    def workspace(self, words: list[int]) -> int:
        """Where `WORKSPACE` bytes are in scratch memory."""
        at = self.address("scratch", words)
        return at + -at % ALIGNED

    def sizes(self, words: list[int]) -> list[int]:
        """The launch's integers."""
        return words[int(self.fields["sizes"]) :]


def is_library(text: str) -> bool:
    """Whether a kernel's text is a call of a library."""
    return text.startswith(FIRST)


def declare(library: str, what: str, words: int, fields: Mapping[str, object]) -> str:
    """The text of a call. Fields that are None are left out; lists are written with spaces between."""
    shown = {name: " ".join(map(str, v)) if isinstance(v, (list, tuple)) else v for name, v in fields.items() if v is not None}
    return "\n".join([f"{FIRST}{library} {what}", f"words {words}", *(f"{name} {v}" for name, v in shown.items()), ""])


def read(text: str) -> Declaration:
    """What a text of `declare` says."""
    first, *lines = text.rstrip("\n").split("\n")
    library, what = first.removeprefix(FIRST).split(" ")
    fields = dict(line.partition(" ")[::2] for line in lines)
    return Declaration(library, what, int(fields.pop("words")), fields)
