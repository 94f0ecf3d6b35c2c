"""What a kernel is before it is compiled, and what a target answers when asked to serve a node.

A CPU kernel is a text in the language of `cpu/language.py`. It defines `kernel(p, tile, ntiles)`: `p` is the address of a
table of 64-bit integers, in this order:

    the addresses of the node's present operands, of its results, of its scratch memory, of the tables, then `Launch.ints`.

Operands that the kernel packs arrive packed; those that it names in `host` have their slot too but are read while binding. The
text is canonical: it says nothing of names or sizes, so that equal regions give equal texts, and the hash of the text (with the
versions and CPU features) is the kernel's identity. No size is compiled in unless it belongs to a constant operand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

Dims = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Launch:
    """The part of a kernel's parameters that depends on sizes: integers after the addresses, how many tiles the work is cut
    into (by shape, never by thread count), and bytes of scratch memory (shared by all tiles, 64-byte aligned).

    Work that goes in several `passes`, each of which begins when the one before is done, says how many tiles each has; the number
    of the pass then stands behind `ints`. Between passes a run can be stopped, as between tiles.

    For kernels that run elsewhere in many more tiles (`cuda/portable.py`): `units` is how many tiles there can be (0: `tiles`), and
    `slice` how much of the scratch memory is each tile's own. `tables` are arrays made for these sizes, where a kernel takes more
    numbers than parameters can hold; they stand behind the tables of the kernel. Of recorded sizes they are a `recording.Table`, or
    what `recording.as_table` makes.
    """

    ints: tuple[int, ...]
    tiles: int = 1
    scratch: int = 0
    passes: tuple[int, ...] = ()
    units: int = 0
    slice: int = 0
    tables: tuple[Any, ...] = ()

    def each(self) -> list[tuple[tuple[int, ...], int]]:
        """The integers and the number of tiles of each pass."""
        return [((*self.ints, k), tiles) for k, tiles in enumerate(self.passes)] or [(self.ints, self.tiles)]


@dataclass(frozen=True, slots=True)
class Call:
    """What `bind` is told: logical shapes of operands (None where left out) and results, and the contents of `host` operands."""

    operands: Sequence[Dims | None]
    results: Sequence[Dims]
    contents: Mapping[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class KernelSource:
    """A kernel that can serve a node: its text or what writes it, how to bind it to sizes, what it wants done to constants.

    `pack` maps operand indices to functions that re-lay a constant operand once, when the model is loaded (the result is a
    contiguous array of any shape). `in_place` names operand indices whose memory the first result may take over.
    `tables` are arrays that the builder made from attributes; they live as long as the kernel, 64-byte aligned.
    `checked`, where not empty, is the message of the error that the kernel may find in its operands' contents (an index out of
    range): kernels cannot raise, so the runner clears the first 8 bytes of scratch before the launch, and raises a RunError with
    this message if they are not zero afterwards. The kernel stays inside its operands whatever they hold.
    Where the operands' contents decide how long results are, `bound` gives the shapes that the results cannot exceed (of a Call
    without results); they are allocated so and `Call.results` says so. The kernel writes the length into bytes 8 to 16 of scratch,
    as an i64, and the runner cuts each result to it along the axis that `trim` names for it (None: not at all).
    `strict` is the kernel that serves instead where the user asked for accuracy="strict".
    """

    source: str | Callable[[], str]
    bind: Callable[[Call], Launch]
    variant: str = ""
    pack: Mapping[int, Callable[[np.ndarray], np.ndarray]] = field(default_factory=dict)
    host: frozenset[int] = frozenset()
    in_place: frozenset[int] = frozenset()
    tables: tuple[np.ndarray, ...] = ()
    checked: str = ""
    bound: Callable[[Call], Sequence[Dims]] | None = None
    trim: tuple[int | None, ...] = ()
    strict: KernelSource | None = None

    @cached_property
    def text(self) -> str:
        """The Python of the kernel. A `source` that is a function writes it now: passes ask only whether there is a kernel."""
        return self.source if isinstance(self.source, str) else self.source()

    @property
    def key(self) -> str:
        """The hash of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def trimmed(result: np.ndarray, axis: int | None, length: int) -> np.ndarray:
    """A result as long as its kernel found it to be along the axis: a contiguous copy, unless nothing is cut."""
    if axis is None or result.shape[axis] == length:
        return result
    return result[(slice(None),) * axis + (slice(length),)].copy()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a target does not serve a node: one clause, with the values that decided."""

    reason: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = ", ".join(f"{k} = {v}" for k, v in self.values.items())
        return f"{self.reason} ({shown})" if shown else self.reason
