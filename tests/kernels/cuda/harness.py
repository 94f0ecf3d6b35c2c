"""Runs CUDA kernels on the CPU, by the shim, and compares them with the operators' references; compiles them by nvrtc.

from kernels.cuda.harness import check_family, run_kernels
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import graphmill.ir.ops  # noqa: F401  (fills the registry)
import numpy as np
import pytest
from graphmill.ir.core import Node
from graphmill.ir.errors import GraphmillError, RunError
from graphmill.ir.op import OPS
from graphmill.kernels.cuda import nvrtc, shim, source
from graphmill.kernels.cuda.target import select
from graphmill.kernels.cuda.watch import Array
from graphmill.kernels.spec import Call, KernelSource, Refusal, trimmed

from ..cpu.harness import GUARD, aligned, aligned_empty, assert_close, from_memory, make_node, reference, to_memory

ARCHITECTURES = ("sm_80", "sm_90")


@dataclass
class Case:
    """A node, the kernel that serves it, what it is run on and what is expected."""

    what: str
    node: Node
    source: KernelSource
    operands: Sequence[Any]
    want: Sequence[np.ndarray]
    rtol: float | None = None
    atol: float | None = None


def _have(get: Any) -> bool:
    try:
        get()
    except nvrtc.CudaUnavailable:
        return False
    return True


needs_shim = pytest.mark.skipif(not _have(shim.compiler), reason="there is no C++ compiler: pip install ziglang")
needs_nvrtc = pytest.mark.skipif(not _have(nvrtc.library), reason="there is no nvrtc: pip install nvidia-cuda-nvrtc")


def cases_of(names: Sequence[str], rung: str = "tensor") -> tuple[list[Case], list[str]]:
    """The examples of operators that CUDA serves, with operands as constants where the operator wants to know them; and what is
    refused of the others."""
    cases, refused = [], []
    for name in names:
        op = OPS[name]
        for i, example in enumerate(op.examples() if op.examples else ()):
            found = _case(name, example, f"{name}[{i}]", rung)
            (cases if isinstance(found, Case) else refused).append(found)  # type: ignore[arg-type]
    return cases, refused


def _case(name: str, example: Any, what: str, rung: str) -> Case | str:
    if any(isinstance(x, (list, dict)) for x in example.operands):
        return f"{what}: operands that are no tensors"
    op, refusal = OPS[name], ""
    want = reference(op, example.operands, dict(example.attrs), example.results)
    for constants in ((), tuple(range(1, len(example.operands)))):
        try:
            node = make_node(name, example.operands, dict(example.attrs), example.results, constants=constants)
        except GraphmillError as e:
            refusal = str(e)
            continue
        found = select(node, rung=rung)
        if not isinstance(found, Refusal):
            return Case(what, node, found, example.operands, want, *(op.tolerance or (None, None)))
        refusal = str(found)
    return f"{what}: {refusal}"


def check(cases: Sequence[Case], sanitize: bool | None = None) -> None:
    """Runs all cases, their kernels compiled together, forwards and with the blocks and threads in reverse order; `sanitize` as in
    `shim.load`."""
    kernels = shim.load([c.source.text for c in cases], sanitize)
    for c in cases:
        for backwards in (False, True):
            got = run_kernel(c, kernels, backwards)
            for j, (g, w) in enumerate(zip(got, c.want, strict=True)):
                assert_close(g, w, c.rtol, c.atol, f"{c.what} result {j}{' backwards' * backwards}\n{c.source.text}")


def check_compiles(texts: Sequence[str], arch: str) -> None:
    """Compiles kernels in one program by nvrtc; none may spill registers. Each is compiled for one of the architectures in turn, with
    GRAPHMILL_NVRTC=all in the environment for all of them."""
    if os.environ.get("GRAPHMILL_NVRTC") != "all":
        texts = list(dict.fromkeys(texts))[ARCHITECTURES.index(arch) :: len(ARCHITECTURES)]
    found = nvrtc.compile_program(source.program(texts), arch).kernels
    for text in texts:
        usage = found[source.entry(text)]
        assert usage.spill_stores == usage.spill_loads == 0, f"{usage}\n{text}"


def run_kernel(c: Case, kernels: dict[str, shim.Kernel], backwards: bool = False) -> list[np.ndarray]:
    """The results of a case's kernel on logical arrays."""
    s, node = c.source, c.node
    host = {i: np.asarray(c.operands[i]) for i in s.host}
    given = [None if x is None else np.shape(x) for x in c.operands]
    shapes = [w.shape for w in c.want]
    if s.bound is not None:
        shapes = [tuple(x) for x in s.bound(Call(given, (), host))]
    operands = [
        aligned(np.ascontiguousarray(s.pack[i](np.asarray(x)))) if i in s.pack else to_memory(x, v.tensor)
        for i, (v, x) in enumerate(zip(node.operands, c.operands, strict=True))
        if v is not None and x is not None
    ]
    results = []
    for v, shape in zip(node.results, shapes, strict=True):
        layout = v.tensor.layout
        results.append(aligned_empty(shape if layout is None else tuple(shape[a] for a in layout.perm), v.tensor.dtype.np))
    length = launch(s, Call(given, shapes, host), operands, results, kernels[s.text], backwards)
    if s.trim:
        results = [trimmed(r, axis, length) for r, axis in zip(results, s.trim, strict=True)]
    return [from_memory(r, v.tensor) for r, v in zip(results, node.results, strict=True)]


def memory_of(given: Sequence[np.ndarray], results: Sequence[np.ndarray], scratch: np.ndarray) -> list[Array]:
    """What the shim's sanitizer is told: of results nothing is defined, of scratch memory its first 8 bytes."""
    said = [*((a, a.nbytes) for a in given), *((r, 0) for r in results), (scratch, 8)]
    found: dict[int, Array] = {}  # a result may lie where an operand does
    for a, n in said:
        found.setdefault(a.ctypes.data, Array(a.ctypes.data, a.nbytes, (np.arange(a.nbytes) < n).astype(np.uint8)))
    return [*found.values()]


def launch(s: KernelSource, call: Call, operands: Sequence[np.ndarray], results: Sequence[np.ndarray], kernel: shim.Kernel,
           backwards: bool = False) -> int:  # fmt: skip
    """Runs a kernel on arrays that lie as it wants them; checks that nothing behind the results was touched. Returns the length
    that the kernel reports, 0 where it does not."""
    bound = s.bind(call)
    scratch = aligned_empty((max(bound.scratch, 64),), np.dtype(np.uint8))
    scratch[:8] = 0
    tables = [aligned(np.ascontiguousarray(t)) for t in (*s.tables, *bound.tables)]
    arrays = [*operands, *results, scratch, *tables]
    memory = memory_of([*operands, *tables], results, scratch)
    for ints, blocks in bound.each():
        words = np.array([*(a.ctypes.data for a in arrays), *(int(i) for i in ints)], np.int64)
        kernel(words, blocks, backwards=backwards, memory=memory)
    for r in [*results, scratch]:
        behind = r.ctypes.data + r.nbytes
        guard = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_uint8 * GUARD).from_address(behind))  # type: ignore[attr-defined]
        assert (guard == 0xA5).all(), "the kernel wrote beyond its result"
    if s.checked and scratch[:8].any():
        raise RunError(s.checked)
    return int(scratch[8:16].view(np.int64)[0]) if s.trim else 0
