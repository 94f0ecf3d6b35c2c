"""Scalar kernels of the CPU as CUDA kernels, run on the CPU by the shim, against the operators' references."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import graphmill.ir.ops  # noqa: F401  # registers the operators
from graphmill.ir.core import Node
from graphmill.ir.errors import GraphmillError, RunError
from graphmill.ir.op import OPS, Example
from graphmill.kernels.cpu.target import select
from graphmill.kernels.cuda import nvrtc, shim, source
from graphmill.kernels.cuda.portable import portable
from graphmill.kernels.spec import Call, KernelSource, Launch, Refusal

from ..cpu.harness import GUARD, aligned, aligned_empty, assert_close, make_node, reference, run_kernel

# Operators whose texts are scalar in every case.
SERVED = """array_feature_extractor batch_norm cast_like compress cum_prod cum_sum dequantize_linear gather gather_elements gather_nd
grid_sample hardmax non_max_suppression non_zero one_hot quantize_linear range resize reverse_sequence rotary_embedding scatter_elements
scatter_nd tensor_scatter topk tree_ensemble tree_ensemble_classifier tree_ensemble_regressor trilu
abs add bit_shift bitwise_and cast clip div erf equal exp mod pow where""".split()  # noqa: SIM905
VECTORS = "arg_max concat conv gemm layer_norm lstm matmul max_pool reduce_sum softmax transpose".split()  # noqa: SIM905


@dataclass(frozen=True)
class Case:
    example: Example
    node: Node
    source: KernelSource  # of the CUDA kernel
    name: str


def launch_cuda(kernel: KernelSource, call: Call, operands: Sequence[np.ndarray | None], results: Sequence[np.ndarray]) -> int:
    """Runs a CUDA kernel on arrays that lie as it wants them, as the CPU harness's launch_kernel does."""
    launch = kernel.bind(call)
    scratch = aligned_empty((launch.scratch,), np.dtype(np.uint8))
    scratch[:8] = 0
    arrays = [x for x in operands if x is not None] + [*results, scratch, *(aligned(np.ascontiguousarray(t)) for t in kernel.tables)]
    words = [a.ctypes.data for a in arrays] + [int(i) for i in launch.ints]
    if launch.table is not None:
        arrays.append(np.array([int(i) for i in launch.table], np.int64))
        words.append(arrays[-1].ctypes.data)
    shim.load([kernel.text])[kernel.text](np.array(words, np.int64), launch.tiles)
    for r in [*results, scratch]:
        behind = np.frombuffer((np.ctypeslib.ctypes.c_uint8 * GUARD).from_address(r.ctypes.data + r.nbytes), np.uint8)
        assert (behind == 0xA5).all(), "the kernel wrote beyond its result"
    if kernel.checked and scratch[:8].any():
        raise RunError(kernel.checked)
    return int(scratch[8:16].view(np.int64)[0]) if kernel.trim else 0


def run_cuda(node: Node, arrays: Sequence[np.ndarray | None], kernel: KernelSource, **kw: object) -> list[np.ndarray]:
    return run_kernel(node, arrays, source=kernel, launch=launch_cuda, **kw)


def cuda_of(node: Node) -> KernelSource | Refusal:
    kernel = select(node)
    return kernel if isinstance(kernel, Refusal) else portable(kernel, node)


def cases_of(name: str) -> list[Case]:
    """The examples of an operator that the CPU serves, with operands as constants where it wants to know them."""
    out = []
    for i, e in enumerate(OPS[name].examples()):
        if any(isinstance(x, (list, dict)) for x in e.operands):
            continue
        for constants in ((), tuple(range(1, len(e.operands)))):
            try:
                node = make_node(name, e.operands, dict(e.attrs), e.results, constants=constants)
            except GraphmillError:
                continue
            kernel = select(node)
            if isinstance(kernel, KernelSource):
                cuda = portable(kernel, node)
                assert isinstance(cuda, KernelSource), f"{name}[{i}]: {cuda}"
                out.append(Case(e, node, cuda, f"{name}[{i}]"))
                break
    return out


@functools.cache
def cases() -> dict[str, list[Case]]:
    """All cases, their texts compiled in one program."""
    out = {name: cases_of(name) for name in SERVED}
    shim.load(c.source.text for each in out.values() for c in each)
    return out


@pytest.mark.parametrize("name", SERVED)
def test_examples(name: str) -> None:
    op, served = OPS[name], cases()[name]
    assert served
    for c in served:
        want = reference(op, c.example.operands, dict(c.example.attrs), c.example.results)
        got = run_cuda(c.node, c.example.operands, c.source, result_shapes=[w.shape for w in want])
        for j, (g, w) in enumerate(zip(got, want, strict=True)):
            assert_close(g, w, *(op.tolerance or ()), what=f"{c.name} result {j}")


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_compiled_for_gpus_nothing_is_spilled(arch: str) -> None:
    if not nvrtc_is_here():
        pytest.skip("nvrtc is not installed")
    texts = {c.source.text: c.name for each in cases().values() for c in each}
    compiled = nvrtc.compile_program(source.program(texts), arch)
    spilled = {texts[t]: compiled.kernels[source.entry(t)] for t in texts}
    spilled = {name: use for name, use in spilled.items() if use.spill_stores or use.spill_loads}
    assert not spilled


def nvrtc_is_here() -> bool:
    try:
        nvrtc.library()
    except nvrtc.CudaUnavailable:
        return False
    return True
