"""The shim's sanitizer: what kernels do wrong is found, what they do right is not said to be wrong."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from graphmill.kernels.cuda import shim
from graphmill.kernels.cuda.shim import CudaLaunchError
from graphmill.kernels.cuda.watch import Array

from .harness import Case, cases_of, check, needs_shim
from .test_attention import around_tiles
from .test_mma import convolutions, products

pytestmark = needs_shim
# Operators whose kernels share memory between threads. All of them: GRAPHMILL_SHIM=sanitize python -m pytest tests/kernels/cuda
SHARING = ["matmul", "conv", "conv_transpose", "matmul_integer", "attention", "reduce_sum", "arg_max", "softmax", "layer_norm", "cum_sum",
           "topk", "non_max_suppression", "non_zero", "transpose", "lstm", "gru", "tree_ensemble", "scatter_elements"]  # fmt: skip
N = 256  # numbers of `x` and of `y`, which lie in one piece of memory

SHARED = "__shared__ f32 a[64];"
COPY = "__shared__ __align__(16) f32 a[256]; copy_async<16>(a + 4 * t, x + 4 * t); copy_async_commit();"
PART = """
    if (t == 0) scratch[2 + blockIdx.x] = x[blockIdx.x];
    {}
    __shared__ u32 before;
    if (t == 0) before = atomicAdd((u32*)scratch + 1, 1u);
    __syncthreads();
    if (before != gridDim.x - 1) return;
    {}
    for (u32 b = t; b < gridDim.x; b += 64) y[b] = scratch[2 + b];
"""

# A kernel of 64 threads and two blocks, and what is said of it.
FAULTS = {
    # shared memory
    "no barrier": ("a[t] = x[t]; y[t] = a[t ^ 1];", "reads byte .* of a in shared memory, which has 256, in line 5 of k_.*, which nobody wrote"),
    "no barrier between rounds": ("for (int k = 0; k < 2; k++) { a[t] = x[t] + k; __syncthreads(); y[t + 64 * k] = a[63 - t]; }",
                                  r"thread 0: reads byte 252 of a in shared memory, which has 256, in line 5 of k_\w+, "
                                  r"which thread 63 of block 0 wrote in line 5 of k_\w+: nothing orders the two"),
    "two writers": ("a[t / 2] = 1; __syncthreads(); y[t] = a[t / 2];", "writes byte .* of a in .*, which thread .* of block 0 wrote"),
    "no __syncwarp": ("a[t] = 0; __syncthreads(); a[t] = x[t]; y[t] = a[t ^ 1];", r"which thread \d+ of block 0 read in line 5 of .*: nothing orders"),
    "a shuffle orders nothing": ("a[t] = 0; __syncthreads(); a[t] = x[t]; __shfl_xor_sync(~0u, t, 1); y[t] = a[t ^ 1];", "wrote .*: nothing orders the two"),
    "a vote orders nothing": ("a[t] = 0; __syncthreads(); a[t] = x[t]; if (__any_sync(~0u, t)) y[t] = a[t ^ 1];", "wrote .*: nothing orders the two"),
    "__syncwarp of other lanes": ("a[t] = 0; __syncthreads(); a[t] = x[t]; __syncwarp(t % 32 < 16 ? 0xffffu : 0xffff0000u); y[t] = a[t ^ 16];",
                                  "read .*: nothing orders the two"),
    "__syncwarp for the block": ("a[t] = 0; __syncthreads(); a[t] = x[t]; __syncwarp(); y[t] = a[t ^ 32];", "wrote .*: nothing orders the two"),
    "an atomic and a read": ("a[t] = 0; __syncthreads(); atomicAdd((u32*)a + t % 2, 1u); y[t] = a[1];", "thread .* changed by an atomic|which thread .* read"),
    "ldmatrix behind nothing": ("__shared__ __align__(16) u32 m[64]; u32 r[2]; m[t] = 0; __syncthreads(); if (t < 32) { m[t] = t; "
                                "ldmatrix_x2(r, m + (t + 1) % 16 * 4); y[64 * blockIdx.x + t] = r[0]; }", "reads byte .* of m in .*, which thread .* wrote"),
    "a template's variable": ("y[t] = swapped<false>(x[t]);", "reads byte .* of part in shared memory, which has 256, .* wrote"),
    "undefined shared memory": ("if (t < 63) a[t] = x[t]; __syncthreads(); y[t] = a[t];", "reads byte 252 of a in shared memory.*, which nobody wrote"),
    "an undefined pack": ("__shared__ float4 b[64]; b[t / 2] = make_float4(1, 2, 3, 4); float4 c = b[t / 2 + 32]; y[t] = c.x + c.w;", "of b in .* nobody wrote"),
    "the dynamic shared memory": ("SHARED(f32)[t] = 1; __syncthreads(); y[t] = SHARED(f32)[64 + t / 2];", "of dynamic shared memory.* which nobody wrote"),
    "beyond the dynamic shared memory": ("SHARED(f32)[t * 2] = 1; if (t > 40) SHARED(f32)[t * 3] = 1;", "writes 4 bytes outside of all arrays"),
    "beyond a variable": ("f32* to = a + (t + (t == 63)); *to = 1; __syncthreads(); y[t] = a[t];", "outside of all arrays, at byte 256 of a in|goes beyond a variable"),
    # asynchronous copies
    "no wait": (COPY + "__syncthreads(); y[t] = a[t];", "reads byte .*, which thread .* of block 0 wrote .*: an asynchronous copy that was not waited for"),
    "its own, not waited for": (COPY + "y[t] = a[4 * t];", "an asynchronous copy that was not waited for"),
    "a wait for another group": (COPY + "copy_async_wait<1>(); __syncthreads(); y[t] = a[t];", "that was not waited for"),
    "a wait without a barrier": (COPY + "copy_async_wait<0>(); y[t] = a[t ^ 32];", "nobody wrote|nothing orders the two"),
    "a barrier before the wait": (COPY + "__syncthreads(); copy_async_wait<0>(); y[t] = a[t ^ 32];", "nothing orders the two|not waited for"),
    "a copy over what is read": ("__shared__ __align__(16) f32 a[256]; a[4 * t] = 1; __syncthreads(); y[t] = a[4 * (63 - t)]; copy_async<16>(a + 4 * t, x + 4 * t);",
                                 "writes byte .*, which thread .* read .*: nothing orders|not waited for"),
    "an undefined copy": ("__shared__ __align__(16) f32 a[256]; copy_async<16>(a + 4 * t, y + 4 * t); copy_async_commit(); copy_async_wait<0>();"
                          " if (a[4 * t]) x[t] = 1;", "of a in .*, which nobody wrote"),
    "a copy's source is overwritten": (COPY + "__syncthreads(); x[(t + 1) % 64 * 4] = 2; copy_async_wait<0>();", "which thread .* of block 0 (read|wrote)"),
    # global memory
    "blocks that write alike": ("y[t] = 1;", "block 1, thread 0: writes byte 0 of .* parameter 1 .*, which thread 0 of block 0 wrote"),
    "blocks that read each other": ("y[blockIdx.x * 64 + t] = 1; if (y[0]) x[64 * blockIdx.x + t] = 2;", "which thread 0 of block 0 wrote"),
    "no barrier, global": ("f32* z = y + 64 * blockIdx.x; z[t] = 1; x[64 * blockIdx.x + t] = z[63 - t];", "which nobody wrote|nothing orders"),
    "parts without fences": (PART.format("", ""), "reads byte .* of scratch.*, which thread 0 of block 0 wrote"),
    "parts without the writer's fence": (PART.format("", "__threadfence();"), "reads byte .* of scratch.*, which thread 0 of block 0 wrote"),
    "parts without the reader's fence": (PART.format("__threadfence();", ""), "reads byte .* of scratch.*, which thread 0 of block 0 wrote"),
    "a fence before what it is for": (PART.format("__threadfence(); if (t == 1) scratch[4 + blockIdx.x] = 1; __syncthreads();",
                                                  "__threadfence(); if (t == 0) y[9] = scratch[4] + scratch[5];"), "which thread 1 of block 0 wrote"),
    "a word that is none's": ("y[t] = scratch[20];", "reads byte 80 of scratch, .*, which nobody wrote"),
    "between two arrays": ("y[64 * blockIdx.x + t] = x[4 * t + 4];", "thread 63: reads 4 bytes outside of all arrays, at byte 1024 of the array of 1024 bytes that parameter 0 is in"),
    "a pack that ends beyond": ("float4 v = *(float4*)(y + 4 * t + 4 * (t == 63)); scratch[t] = v.x;", "outside of all arrays|nobody wrote"),
    "before an array": ("y[64 * blockIdx.x + t] = x[i32(t) - 1];", "thread 0: reads 4 bytes outside of all arrays"),
    "another thread's stack": ("f32 own = x[t]; __shared__ f32* at; if (t == 0) at = &own; __syncthreads(); if (t) y[t] = *at; __syncthreads();",
                               "touches another thread's stack"),
}  # fmt: skip
# What is right.
RIGHT = {
    "a barrier": "a[t] = x[t]; __syncthreads(); y[64 * blockIdx.x + t] = a[63 - t];",
    "barriers between rounds": "for (int k = 0; k < 2; k++) { a[t] = x[t]; __syncthreads(); if (k) y[64 * blockIdx.x + t] = a[63 - t]; __syncthreads(); }",
    "__syncwarp": "a[t] = x[t]; __syncwarp(); y[64 * blockIdx.x + t] = a[t ^ 31]; __syncwarp(); a[t] = 1;",
    "__syncwarp of halves": "a[t] = x[t]; __syncwarp(t % 32 < 16 ? 0xffffu : 0xffff0000u); y[64 * blockIdx.x + t] = a[t ^ 15];",
    "__syncwarp is passed on": "if (t < 32) { a[t] = x[t]; if (t < 24) __syncwarp(0xffffffu); if (t >= 16) __syncwarp(0xffff0000u); if (t >= 24) y[64 * blockIdx.x + t] = a[t - 24]; }",
    "bytes of a word": "__shared__ u8 b[64]; b[t] = u8(t); __syncthreads(); y[64 * blockIdx.x + t] = b[63 - t];",
    "atomics": "if (t < 2) a[t] = 0; __syncthreads(); atomicAdd((u32*)a + t % 2, 1u); __syncthreads(); y[64 * blockIdx.x + t] = a[1];",
    "copies": COPY + "copy_async_wait<0>(); __syncthreads(); y[64 * blockIdx.x + t] = a[63 - t];",
    "its own copy": COPY + "copy_async_wait<0>(); y[64 * blockIdx.x + t] = a[4 * t];",
    "two groups": COPY + "__shared__ __align__(16) f32 c[256]; copy_async<16>(c + 4 * t, x + 4 * t, 8); copy_async_commit(); copy_async_wait<1>(); "
                  "__syncthreads(); y[64 * blockIdx.x + t] = a[63 - t]; copy_async_wait<0>(); __syncthreads(); y[128 + 64 * blockIdx.x + t] = c[63 - t];",
    "copies of nothing": "__shared__ __align__(16) f32 c[256]; copy_async<16>(c + 4 * t, x + 999996, 0); copy_async_commit(); copy_async_wait<0>(); "
                         "y[64 * blockIdx.x + t] = c[4 * t];",
    "an undefined copy that nobody uses": "__shared__ __align__(16) f32 a[256]; copy_async<16>(a + 4 * t, scratch + 16); copy_async_commit(); copy_async_wait<0>();",
    "ldmatrix": "__shared__ __align__(16) u32 m[64]; u32 r[2]; m[t] = t; __syncthreads(); if (t < 32) { ldmatrix_x2_trans(r, m + t % 16 * 4); y[64 * blockIdx.x + t] = r[1]; }",
    "parts, fences of all": PART.format("__threadfence(); __syncthreads();", "__threadfence();"),
    "parts, a fence behind the barrier": PART.format("__syncthreads(); if (t == 0) __threadfence();", "__threadfence();"),
    "parts of one thread": PART.format("if (t == 0) __threadfence();", "__threadfence();"),
    "counting in global memory": "atomicAdd((u32*)scratch + 1, 1u);",
    "a structure with padding": "struct Both { u8 c; u32 n; }; __shared__ Both b[64]; b[t] = Both{u8(t), t}; __syncthreads(); Both c = b[63 - t]; __syncthreads(); b[t] = c; "
                                "y[64 * blockIdx.x + t] = c.n;",
    "a template's variable": "y[64 * blockIdx.x + t] = swapped<true>(x[t]);",
}  # fmt: skip
HELPER = """template <bool wait, class T> DEVICE T swapped(T v) {
    __shared__ T part[64]; part[threadIdx.x] = v; if (wait) __syncthreads(); return part[threadIdx.x ^ 1]; }"""


def text_of(body: str) -> str:
    shared = "" if " a[256]" in body else SHARED
    return (f"{HELPER}\nKERNEL(64, 4, 512) {{\n"
            f"    const u32 t = threadIdx.x; f32 *x = (f32*)p[0], *y = (f32*)p[1], *scratch = (f32*)p[2]; {shared}\n    {body}\n}}\n")  # fmt: skip


def run(text: str, every: list[str], backwards: bool = False) -> None:
    """Runs a kernel on x, on y 64 bytes behind it, of which nothing is defined, and on scratch memory, of which 8 bytes are."""
    kernel, memory = shim.load(every, sanitize=True)[text], np.zeros(2 * N + 64, np.float32)
    x = memory.ctypes.data + -memory.ctypes.data % 64
    memory[:], y = 1, x + 4 * N + 64
    scratch = np.zeros(64, np.float32)
    defined = np.zeros(256, np.uint8)
    defined[:8] = 1
    arrays = [Array(x, 4 * N), Array(y, 4 * N, np.zeros(4 * N, np.uint8)), Array(scratch.ctypes.data, 256, defined, "scratch")]
    kernel(np.array([x, y, scratch.ctypes.data, 0]), 2, backwards=backwards, memory=arrays)


@pytest.mark.parametrize("what", FAULTS)
def test_faults_are_found(what: str) -> None:
    body, said = FAULTS[what]
    every = [text_of(b) for b, _ in FAULTS.values()]
    if not shutil.which("addr2line"):
        pytest.skip("addr2line tells the lines")
    with pytest.raises(CudaLaunchError, match=said):
        run(text_of(body), every)
    with pytest.raises(CudaLaunchError):
        run(text_of(body), every, backwards=True)


@pytest.mark.parametrize("what", RIGHT)
def test_what_is_right_passes(what: str) -> None:
    every = [text_of(b) for b in RIGHT.values()]
    for backwards in (False, True):
        run(text_of(RIGHT[what]), every, backwards)


def test_memory_is_the_launch_before_s_until_follow() -> None:
    """follow() (prelude.cuh) stands in every KERNEL; here another one does, which a kernel that waits later would have."""
    early = "DEVICE void follow() {}\nKERNEL(64, 4) {\n    f32* y = (f32*)p[1];\n    u32 n = p[3];\n    %s\n    ::follow();\n" \
            "    y[64 * blockIdx.x + threadIdx.x] = n;\n}\n"  # fmt: skip
    bodies = {"if (y[0]) n = 1;": "reads", "y[0] = 1;": "writes", "atomicAdd((u32*)p[2], 1u);": "changes by an atomic",
              "__shared__ __align__(16) f32 a[4]; copy_async<16>(a, (f32*)p[0]);": "reads",
              "__shared__ u32 a; if (threadIdx.x == 0) a = n; __syncthreads(); n = a;": ""}  # fmt: skip
    for body, said in bodies.items():
        every = [early % b for b in bodies]
        if not said:
            run(early % body, every)
            continue
        with pytest.raises(CudaLaunchError, match=rf"block 0, thread 0: {said} byte 0 of .* line 5 of .*: comes before follow\(\)"):
            run(early % body, every)


def test_what_a_launch_wrote_the_next_may_read() -> None:
    text = "KERNEL(64, 2) { f32* x = (f32*)p[0]; x[threadIdx.x + 64 * p[1]] = p[1] ? x[threadIdx.x] : 1; }\n"
    kernel, x, defined = shim.load([text], sanitize=True)[text], np.zeros(128, np.float32), np.zeros(512, np.uint8)
    memory = [Array(x.ctypes.data, x.nbytes, defined)]
    with pytest.raises(CudaLaunchError, match="nobody wrote"):
        kernel(np.array([x.ctypes.data, 1]), 1, memory=memory)
    for k in range(2):
        kernel(np.array([x.ctypes.data, k]), 1, memory=memory)
    assert (x == 1).all() and defined.all()


def test_without_its_memory_shared_memory_is_watched_all_the_same() -> None:
    text = "KERNEL(64, 1) { __shared__ f32 a[64]; a[threadIdx.x] = 1; %s ((f32*)p[0])[threadIdx.x] = a[63 - threadIdx.x]; }\n"
    y = np.zeros(64, np.float32)
    shim.load([text % "__syncthreads();"], sanitize=True)[text % "__syncthreads();"](np.array([y.ctypes.data]), 1)
    assert y.all()
    with pytest.raises(CudaLaunchError, match="of a in shared memory"):
        shim.load([text % ""], sanitize=True)[text % ""](np.array([y.ctypes.data]), 1)


def test_the_environment_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, said in (("sanitize", True), ("", False)):
        monkeypatch.setenv("GRAPHMILL_SHIM", value)
        assert shim.sanitizing() is said


def some(cases: list[Case], most: int) -> list[Case]:
    """Cases of up to so many kernels, one of each; how exact they are is tested elsewhere."""
    found = list({c.source.text: c for c in cases}.values())[:most]
    return [replace(c, rtol=1e-2, atol=1e-2) for c in found]


def test_kernels_that_share_memory() -> None:
    check([c for name in SHARING for c in some(cases_of([name])[0], 2)], sanitize=True)


def test_tensor_cores_and_asynchronous_copies() -> None:
    check([*some(products(), 5), *some(convolutions(), 3), *some(around_tiles(), 3)], sanitize=True)
