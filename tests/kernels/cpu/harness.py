"""Runs CPU kernels by themselves and compares them with the operators' references.

from kernels.cpu.harness import check_native, make_node, run_kernel
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from graphmill.ir.core import Module, Node
from graphmill.ir.errors import GraphmillError, RunError
from graphmill.ir.op import OPS, Example, InferContext, OpDef
from graphmill.ir.symbols import symbol
from graphmill.ir.types import DType, TensorType, dtype_of, type_of
from graphmill.kernels.cpu.objects import kernel_address
from graphmill.kernels.cpu.target import select
from graphmill.kernels.spec import Call, KernelSource, Refusal, trimmed

_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
# (rtol, atol) of results against the reference, by element type.
TOLERANCE = {"f64": (1e-12, 1e-15), "f32": (2e-6, 3e-7), "f16": (2e-3, 1e-4), "bf16": (1.6e-2, 1e-3)}
GUARD = 64  # bytes beyond a result that a kernel must leave as they are


def make_node(name: str, operands: Sequence[Any], attrs: dict[str, Any] | None = None, results: int = 1, *,
              types: Sequence[Any] | None = None, constants: Sequence[int] = ()) -> Node:  # fmt: skip
    """A node over operands given as arrays (None: left out), with inferred result types. `types` replaces the operands' own
    types (symbolic dims, layouts); the operands numbered in `constants` become constants."""
    op, module = OPS[name], Module()
    types = types or [None if x is None else type_of(x) for x in operands]
    values = []
    for i, (x, t) in enumerate(zip(operands, types, strict=True)):
        if x is None:
            values.append(None)
        else:
            values.append(module.add_const(f"c{i}", x, t) if i in constants else module.main.add_input(f"x{i}", t))
    all_attrs = {k: a.default for k, a in op.attrs.items()} | dict(attrs or {})
    contents = [np.asarray(x) if i in constants else None for i, x in enumerate(operands)]
    inferred = op.infer(InferContext(op, types, all_attrs, results, contents, lambda hint, lo, hi: symbol(f"new.{hint}", lo)))
    inferred = list(inferred) if isinstance(inferred, (list, tuple)) else [inferred]
    node = module.main.add(op, values, attrs, names=[f"y{i}" for i in range(results)], types=inferred[:results])
    module.main.set_outputs(node.results)
    return node


def to_memory(array: np.ndarray, t: TensorType) -> np.ndarray:
    """A copy of a logical array as it lies in memory (its layout applied), 64-byte aligned."""
    a = np.asarray(array, t.dtype.np)
    return aligned(a if t.layout is None else a.transpose(t.layout.perm))


def from_memory(memory: np.ndarray, t: TensorType) -> np.ndarray:
    return memory if t.layout is None else memory.transpose(t.layout.inverse())


def aligned(a: np.ndarray) -> np.ndarray:
    out = aligned_empty(a.shape, a.dtype)
    out[...] = a
    return out


def aligned_empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An array at a multiple of 64 bytes with a guard behind it."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.full(nbytes + 64 + GUARD, 0xA5, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + nbytes].view(dtype).reshape(shape)


def run_kernel(node: Node, arrays: Sequence[np.ndarray | None], result_shapes: Sequence[tuple[int, ...]] | None = None,
               source: KernelSource | None = None, in_place: int | None = None) -> list[np.ndarray]:  # fmt: skip
    """The results of a node's CPU kernel on logical arrays, every tile in turn. Raises RuntimeError where the target refuses.

    `result_shapes` is needed where the inferred ones are symbolic; `in_place` names an operand whose memory result 0 takes.
    """
    source = source or select(node)
    if isinstance(source, Refusal):
        raise RuntimeError(f"refused: {source}")
    host = {i: np.asarray(arrays[i]) for i in source.host}
    given = [None if x is None else np.shape(x) for x in arrays]
    shapes = list(result_shapes or [v.tensor.shape for v in node.results])
    if source.bound is not None:
        shapes = [tuple(s) for s in source.bound(Call(given, (), host))]
    operands = [
        None if v is None else source.pack[i](np.asarray(x)) if i in source.pack else to_memory(x, v.tensor)
        for i, (v, x) in enumerate(zip(node.operands, arrays, strict=True))
    ]
    operands = [x if i not in source.pack else aligned(np.ascontiguousarray(x)) for i, x in enumerate(operands)]
    results = []
    for j, (v, shape) in enumerate(zip(node.results, shapes, strict=True)):
        t = v.tensor
        physical = shape if t.layout is None else tuple(shape[a] for a in t.layout.perm)
        reuse = operands[in_place] if j == 0 and in_place is not None else None
        results.append(aligned_empty(physical, t.dtype.np) if reuse is None else reuse.view(t.dtype.np).reshape(physical))
    length = launch_kernel(source, Call(given, shapes, host), operands, results)
    if source.trim:
        results = [trimmed(r, axis, length) for r, axis in zip(results, source.trim, strict=True)]
    return [from_memory(r, v.tensor) for r, v in zip(results, node.results, strict=True)]


def launch_kernel(source: KernelSource, call: Call, operands: Sequence[np.ndarray | None], results: Sequence[np.ndarray]) -> int:
    """Runs all tiles of a kernel on arrays that lie as it wants them; checks that nothing behind the results was touched. Returns
    the length that the kernel reports, 0 where it does not."""
    launch = source.bind(call)
    assert all(tiles >= 1 for _, tiles in launch.each())
    scratch = aligned_empty((launch.scratch,), np.dtype(np.uint8))
    scratch[:8] = 0
    tables = [aligned(np.ascontiguousarray(t)) for t in (*source.tables, *launch.tables)]
    arrays = [x for x in operands if x is not None] + [*results, scratch, *tables]
    function = _FUNCTION(kernel_address(source))
    for ints, tiles in launch.each():
        params = np.array([a.ctypes.data for a in arrays] + [int(i) for i in ints], np.int64)
        for tile in range(tiles):
            function(params.ctypes.data, tile, tiles)
    for r in [*results, scratch]:
        guard = (ctypes.c_uint8 * GUARD).from_address(r.ctypes.data + r.nbytes)
        assert bytes(guard) == b"\xa5" * GUARD, "the kernel wrote beyond its result"
    if source.checked and scratch[:8].any():
        raise RunError(source.checked)
    return int(scratch[8:16].view(np.int64)[0]) if source.trim else 0


def assert_close(got: np.ndarray, want: np.ndarray, rtol: float | None = None, atol: float | None = None, what: str = "") -> None:
    """Equal shapes and dtypes; floats within tolerance with equal NaNs and infinities, all else exactly."""
    want = np.asarray(want)
    assert got.dtype == want.dtype, f"{what}: {got.dtype}, expected {want.dtype}"
    assert got.shape == want.shape, f"{what}: {got.shape}, expected {want.shape}"
    d: DType = dtype_of(want)
    if d.name in TOLERANCE:
        default = TOLERANCE[d.name]
        wide = np.float64
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(got.astype(wide), want.astype(wide), default[0] if rtol is None else rtol,
                                       default[1] if atol is None else atol, equal_nan=True, err_msg=what)  # fmt: skip
    elif d.is_float or d.kind == "complex":
        np.testing.assert_array_equal(got.astype(np.complex128), want.astype(np.complex128), err_msg=what)
    else:
        np.testing.assert_array_equal(got, want, err_msg=what)


def reference(op: OpDef, operands: Sequence[Any], attrs: dict[str, Any], results: int = 1) -> list[np.ndarray]:
    all_attrs = {k: a.default for k, a in op.attrs.items()} | dict(attrs)
    with np.errstate(all="ignore"):
        out = op.reference(*operands, **all_attrs)
    return [np.asarray(r) for r in (out if isinstance(out, tuple) else (out,))][:results]


@dataclass
class Share:
    """How many examples were served natively, and why the others were not."""

    served: int = 0
    refused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.served}/{self.served + len(self.refused)}" + "".join(f"\n  {r}" for r in dict.fromkeys(self.refused))


def check_native(name: str, rtol: float | None = None, atol: float | None = None) -> Share:
    """Every example of an operator that the CPU target serves equals the reference, with operands as constants where the
    operator wants to know them; returns which share was served."""
    op, share = OPS[name], Share()
    for i, example in enumerate(op.examples() if op.examples else ()):
        refusal = check_native_example(op, example, f"{name}[{i}]", rtol, atol)
        if refusal is None:
            share.served += 1
        else:
            share.refused.append(refusal)
    return share


def check_native_example(
    op: OpDef, example: Example, what: str, rtol: float | None = None, atol: float | None = None
) -> str | None:
    """None where the example was served and right, else why it was refused."""
    if any(isinstance(x, (list, dict)) for x in example.operands):
        return "operands that are no tensors"
    want = reference(op, example.operands, dict(example.attrs), example.results)
    refusal = ""
    for constants in ((), tuple(range(1, len(example.operands)))):
        try:
            node = make_node(op.name, example.operands, dict(example.attrs), example.results, constants=constants)
        except GraphmillError as e:
            refusal = str(e)
            continue
        source = select(node)
        if isinstance(source, Refusal):
            refusal = str(source)
            continue
        got = run_kernel(node, example.operands, [w.shape for w in want], source)
        rtol, atol = (op.tolerance or (rtol, atol)) if rtol is None and atol is None else (rtol, atol)
        for j, (g, w) in enumerate(zip(got, want, strict=True)):
            assert_close(g, w, rtol, atol, f"{what} result {j}")
        return None
    return refusal
