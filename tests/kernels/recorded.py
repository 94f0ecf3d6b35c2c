"""Whether a kernel's `bind` runs on recorded sizes as on ints, and what was recorded gives the same launch for other sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import graphmill.ir.ops  # noqa: F401  (fills OPS)
import numpy as np
from graphmill.ir.errors import GraphmillError
from graphmill.ir.op import OpDef
from graphmill.ir.recording import Tape, value_of
from graphmill.kernels.spec import Call, KernelSource

from .cpu.harness import make_node, reference

Shapes = list[tuple[int, ...] | None]


def sources(op: OpDef, select: Any) -> Iterator[tuple[KernelSource, Shapes, Shapes, dict[int, np.ndarray]]]:
    """The kernels of an operator's examples, with the shapes of operands and results and the contents that they ask for."""
    for example in op.examples() if op.examples else ():
        if any(isinstance(x, (list, dict)) for x in example.operands) or "sequence" in op.name:
            continue
        for constants in ((), tuple(range(1, len(example.operands)))):
            try:
                results = reference(op, example.operands, dict(example.attrs), example.results)
                node = make_node(op.name, example.operands, dict(example.attrs), example.results, constants=constants)
            except GraphmillError:
                continue
            source = select(node)
            if isinstance(source, KernelSource) and source.bound is None:
                host = {i: np.asarray(example.operands[i]) for i in source.host if example.operands[i] is not None}
                yield source, [None if x is None else np.shape(x) for x in example.operands], [r.shape for r in results], host


def launched(source: KernelSource, operands: Shapes, results: Shapes, host: dict[int, np.ndarray], sizes: dict[int, Any]) -> Any:
    """What `bind` answers with each size of the shapes replaced."""
    new = [None if s is None else tuple(sizes[n] for n in s) for s in operands]
    launch = source.bind(Call(new, [tuple(sizes[n] for n in s or ()) for s in results], host))
    return (*launch.ints, *launch.passes), launch.tiles, launch.scratch


def asked_and_answered(op: OpDef, select: Any) -> tuple[int, int]:
    """For how many other signatures of an operator's examples the kernels that `select` gives were asked, and for how many of them
    what was recorded has an answer, which is the right one."""
    rng, asked, answered = np.random.default_rng(0), 0, 0
    for source, operands, results, host in sources(op, select):
        sizes = sorted({n for s in [*operands, *results] if s is not None for n in s})
        tape = Tape()
        recorded = {n: tape.size(f"sizes[{i}]", n) for i, n in enumerate(sizes)}
        contents = {i: x if x.dtype.kind not in "iu" else _recorded_contents(tape, i, x) for i, x in host.items()}
        found = launched(source, operands, results, contents, recorded)
        plain = launched(source, operands, results, host, {n: n for n in sizes})
        assert (tuple(map(value_of, found[0])), value_of(found[1]), value_of(found[2])) == plain
        again = tape.function("sizes, contents", found)
        for _ in range(6):
            other = {n: int(rng.integers(2, 60)) if n > 1 else n for n in sizes}
            try:
                want = launched(source, operands, results, host, other)
            except Exception:
                want = None  # sizes that do not go together
            got = again(list(other.values()), {i: x.ravel().tolist() for i, x in host.items()})
            assert got is None or got == want
            asked, answered = asked + (want is not None), answered + (got is not None)
    return asked, answered


def _recorded_contents(tape: Tape, i: int, x: np.ndarray) -> np.ndarray:
    out = np.empty(x.size, object)
    out[:] = [tape.size(f"contents[{i}][{k}]", n) for k, n in enumerate(x.ravel().tolist())]
    return out.reshape(x.shape)
