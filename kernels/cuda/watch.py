"""What the shim's sanitizer (sanitizer.hpp) is told of a launch, and what it says in words.

The variables of shared memory, and where a library has them, are those of its table of symbols: compilers give no other sign of
what is static in a template.
"""

from __future__ import annotations

import ctypes
import functools
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Variables that are not the shim's: the text they are of, if they are none of the prelude's, and their names. Those that stand in a
# function are shared memory, others the program's.
_SHARED = re.compile(r"_ZZ(?!N4shim|N9sanitizer)(?:.*?n(k_[0-9a-f]{64}))?.*E\d+([A-Za-z_]\w*?)(?:_\d+)?")
_GLOBAL = re.compile(r"_ZN9graphmill\d+n(k_[0-9a-f]{64})L?\d+(\w+)E")


class Array(NamedTuple):
    """Memory that a watched kernel may touch. Of `defined`, an array of bytes, those are 0 that nobody wrote yet; a kernel makes
    them 1. None: all are defined."""

    address: int
    nbytes: int
    defined: np.ndarray | None = None
    name: str = ""


class Symbol(NamedTuple):
    """A variable or function of a library, at an offset from where it is loaded."""

    name: str
    at: int
    nbytes: int
    section: str


@functools.cache
def symbols(path: Path) -> list[Symbol]:
    """The variables and functions of a 64-bit ELF file (System V ABI, chapter 4)."""
    data = path.read_bytes()
    start, size, count, names = *struct.unpack_from("<Q", data, 40), *struct.unpack_from("<HHH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + i * size) for i in range(count)]

    def text(table: int, at: int) -> str:
        first = sections[table][4] + at
        return data[first : data.index(b"\0", first)].decode()

    def found() -> Iterator[Symbol]:
        for _, kind, _, _, first, length, link, _, _, step in sections:
            for at in range(first, first + length, step) if kind == 2 else ():  # SHT_SYMTAB
                name, info, _, section, value, nbytes = struct.unpack_from("<IBBHQQ", data, at)
                if info & 15 in (1, 2) and section < count:  # STT_OBJECT, STT_FUNC
                    yield Symbol(text(link, name), value, nbytes, text(names, sections[section][0]))

    return list(found())


class Watch:
    """The sanitizer of a kernel of a library."""

    def __init__(self, library: ctypes.CDLL, path: Path, kernel: str):
        self._path, self._tell = path, library.graphmill_watch
        entry = next(s for s in symbols(path) if s.name == "graphmill_watch")
        base = ctypes.cast(self._tell, ctypes.c_void_p).value - entry.at  # type: ignore[operator]
        kept = [s for s in symbols(path) if s.section.startswith(("shared_memory", ".bss", ".data"))]

        def variables(of: re.Pattern, what: str) -> list[Array]:
            found = [(s, of.fullmatch(s.name)) for s in kept]
            return [Array(base + s.at, s.nbytes, name=f"{m[2]} in {what}") for s, m in found if m and m[1] in (None, kernel)]

        self._shared = variables(_SHARED, "shared memory")
        self._global = variables(_GLOBAL, "global memory")
        self._arrays: list[Array] = []

    def tell(self, words: np.ndarray, dynamic: Array, memory: Sequence[Array] | None) -> None:
        """Tells of the next launch: its words, its dynamic shared memory, all memory of the device (None: that is not known)."""
        shared = [*self._shared, dynamic]
        kinds = [*((a, 1) for a in shared), *((a, 0) for a in [*self._global, *(memory or ())])]
        kinds = sorted(((a, kind) for a, kind in kinds if a.nbytes), key=lambda x: x[0].address)
        self._words, self._arrays = words, [a for a, _ in kinds]
        rows = [(a.address, a.nbytes, 0 if a.defined is None else a.defined.ctypes.data, kind, 0, 0) for a, kind in kinds]
        self._table = np.array([*rows, (0,) * 6], np.int64)  # what stands there lives until the next launch
        table, given = ctypes.c_void_p(self._table.ctypes.data), ctypes.c_void_p(words.ctypes.data)
        self._tell(table, len(rows), memory is not None, given, len(words))

    def explained(self, said: str) -> str:
        """A message of the sanitizer's, with names of arrays and with lines."""
        said = re.sub(r"#(\d+)#", lambda m: self._name(int(m[1])), said)
        return re.sub("@([0-9a-f]+)@", lambda m: self._line(int(m[1], 16) - 1), said)

    def _name(self, number: int) -> str:
        a = self._arrays[number]
        at = np.flatnonzero((self._words >= a.address) & (self._words < a.address + a.nbytes))
        parameter = f"the array of {a.nbytes} bytes that parameter {at[0]} is in" if len(at) else f"an array of {a.nbytes} bytes"
        return f"{a.name}, which has {a.nbytes}" if a.name else parameter

    def _line(self, address: int) -> str:
        """The line of the kernel's text at an address of the library and, if it is in another file, the line there."""
        tool = shutil.which("addr2line")
        if tool is None:
            return f"the instruction before {address + 1:#x} of {self._path} (addr2line would tell the line)"
        found = subprocess.run([tool, "-i", "-e", self._path, f"{address:#x}"], capture_output=True, text=True, check=False)
        lines = [x.split(" ")[0].rpartition("/")[2].rpartition(":") for x in found.stdout.split("\n") if x]
        shown = [f"line {number} of {file}" for file, _, number in lines]
        text = next((x for x, (file, _, _) in zip(shown, lines, strict=True) if file.startswith("k_")), shown[-1])
        return text if text == shown[0] else f"{shown[0]}, for {text}"
