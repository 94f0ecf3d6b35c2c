"""CUDA kernels on the CPU: what goes wrong is said, libraries are kept, threads of the host do not disturb each other."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from graphmill.kernels.cuda import shim
from graphmill.kernels.cuda.nvrtc import CudaCompileError, CudaUnavailable
from graphmill.kernels.cuda.shim import CudaLaunchError, guarded

from .harness import needs_shim

PLUS = "KERNEL(64, 3) { u32 i = blockIdx.x * THREADS + threadIdx.x; if (i < p[2]) ((f32*)p[1])[i] = ((f32*)p[0])[i] + 1; }\n"
pytestmark = needs_shim


def one(text: str, *words: int, blocks: int = 2, backwards: bool = False) -> None:
    shim.load([text])[text](np.array(words, np.int64), blocks, backwards=backwards)


# ---- what goes wrong --------------------------------------------------------------------------------------------

HANGS = {
    "half of the block waits": ("if (threadIdx.x < 32) __syncthreads(); else if (threadIdx.x == 40) __shfl_sync(3u << 8, 1, 8);",
                                "block 0 hangs: of 64 threads 31 ended, 32 wait at a barrier of the block, 1 in an operation"),
    "another lane has ended": ("if (threadIdx.x % 32 < 31) __syncwarp();", "hangs: of 64 threads 2 ended, 0 wait at .* 62 in"),
    "two barriers": ("if (threadIdx.x < 7) __syncthreads(); else __syncthreads_count(1);", "meet in different barriers"),
    "two operations": ("if (threadIdx.x % 2) __syncwarp(); else __ballot_sync(~0u, 1);", "meet in different operations"),
    "two masks": ("__syncwarp(threadIdx.x % 2 ? ~0u : ~0u >> 1);", "with different masks"),
    "not in its own mask": ("__syncwarp(1);", "thread 1: a lane is not in the mask of its own"),
    "reads a lane outside": ("if (threadIdx.x < 2) __shfl_sync(3u, 1, 5);", "reads one that takes no part"),
    "mma of a part": ("f32 c[4]; u32 a[4], b[2]; if (threadIdx.x >= 32) mma_f16(c, a, b);", "mma takes whole warps"),
    "ldmatrix off by 8": ("__shared__ __align__(16) u32 m[260]; u32 r[2]; ldmatrix_x2(r, m + threadIdx.x % 8 * 4 + 2);", "multiples of 16 bytes"),
    "copy off by 4": ("__shared__ __align__(16) u32 m[260]; copy_async<16>(m + 1, m);", "multiples of the size"),
    "too valid a copy": ("__shared__ __align__(16) u32 m[260]; copy_async<8>(m, m + 8, 9);", "more valid bytes"),
    "trap": ("if (threadIdx.x == 3) __trap();", r"block 0, thread 3: __trap\(\)"),
    "null": ("if (threadIdx.x == 33) *(volatile int*)p[0] = 1;", r"block 0, thread 33: touches memory that is not there, at "),
    "stack": ("volatile char all[99999]; all[threadIdx.x] = 1; __syncthreads(); all[0] += all[9];", "a stack of more than 60 KiB"),
}  # fmt: skip


@pytest.mark.parametrize("what", HANGS)
def test_what_would_hang_or_crash_is_said(what: str) -> None:
    body, said = HANGS[what]
    threads = 48 if what == "mma of a part" else 64
    text = f"KERNEL({threads}, 1) {{ {body} }}\n"
    kernel = shim.load([f"KERNEL({'48' if h == 'mma of a part' else '64'}, 1) {{ {HANGS[h][0]} }}\n" for h in HANGS])[text]
    with pytest.raises(CudaLaunchError, match=said) as e:
        kernel(np.zeros(1, np.int64), 2)
    assert text in str(e.value)
    with pytest.raises(CudaLaunchError):
        kernel(np.zeros(1, np.int64), 2)


UNDEFINED = {
    "__shared__ i32 a[64]; a[threadIdx.x + p[1]] = 1;": "uses an index beyond its array",
    "i32 a[8]; for (int i = 0; i < 8 + p[1]; i++) a[i] = i; ((i32*)p[0])[0] = a[threadIdx.x % 8];": "uses an index beyond its array",
    "((f32*)p[0])[0] = *(const f32*)(p[0] + 2);": "uses an address that is not a multiple",
    "((float2*)p[0])[0] = *(const float2*)(p[0] + 4);": "uses an address that is not a multiple",
    "((i32*)p[0])[0] = 1 << (31 + p[1]);": "shifts by",
    "((i32*)p[0])[0] = (i32)(3e9f * p[1]);": "makes an integer of a float",
    "((u32*)p[0])[0] = (u32)(-1e9f * p[1]);": "makes an integer of a float",
    "((i32*)p[0])[0] = 5 / (i32)(p[1] - 1);": "divides an integer by 0",
    "((u64*)p[0])[0] = 5 % (u64)(p[1] - 1);": "divides an integer by 0",
}


@pytest.mark.parametrize("body", UNDEFINED)
def test_where_gpus_differ_from_cpus_is_said(body: str) -> None:
    texts = {b: f"KERNEL(64, 2) {{\n    // the second line is this\n    {b}\n}}\n" for b in UNDEFINED}
    kernel, memory = shim.load(texts.values())[texts[body]], guarded(np.zeros(64))
    with pytest.raises(CudaLaunchError, match=rf"^block 0, thread \d+: {UNDEFINED[body]}.*, in line 3 of k_"):
        kernel(np.array([memory.ctypes.data, 1]), 1)


def test_reading_a_word_that_is_none_is_said() -> None:
    with pytest.raises(CudaLaunchError, match="thread 2: reads a word beyond its parameters"):
        one("KERNEL(64, 2) { if (p[threadIdx.x]) return; }\n", 0, 0)


def test_reading_and_writing_beyond_an_array_is_said() -> None:
    x, y = guarded(np.arange(100, dtype=np.float32)), guarded(np.zeros(100, np.float32))
    one(PLUS, x.ctypes.data, y.ctypes.data, 100)
    assert (y == np.arange(1, 101)).all()
    with pytest.raises(CudaLaunchError, match="block 1, thread 36: touches"):
        one(PLUS, x.ctypes.data, y.ctypes.data, 101)
    with pytest.raises(CudaLaunchError, match="touches"):
        one(PLUS, np.zeros(200, np.float32).ctypes.data, y.ctypes.data, 101)


def test_guarded_arrays() -> None:
    for a in (
        np.zeros((0, 3)),
        np.array(5, np.int16),
        np.ones(7, bool),
        np.arange(5000).reshape(50, 100).T,
        np.arange(13, dtype=np.int8),
    ):
        b = guarded(a)
        assert b.dtype == a.dtype and b.shape == a.shape and (b == a).all() and b.ctypes.data % 16 == 0
        assert guarded(a, align=1).ctypes.data + a.nbytes & 4095 == 0


def test_a_crash_outside_of_a_kernel_stays_one() -> None:
    code = "import ctypes, numpy as np\nfrom graphmill.kernels.cuda import shim\n" \
           f"t = {PLUS!r}\nk = shim.load([t])[t]\nk(np.zeros(3, np.int64), 1)\n" \
           "try: k(np.array([0, 0, 1]), 1)\nexcept shim.CudaLaunchError: print('said', flush=True)\nctypes.string_at(0)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "said\n" and done.returncode < 0


def test_a_missing_barrier_shows_in_the_other_order() -> None:
    text = "KERNEL(64, 1) {{ __shared__ i32 a[64]; u32 t = threadIdx.x; a[t] = t; {} ((i32*)p[0])[t] = a[63 - t]; }}\n"
    for barrier in ("", "__syncthreads();"):
        both = []
        for backwards in (False, True):
            y = np.zeros(64, np.int32)
            one(text.format(barrier), y.ctypes.data, blocks=1, backwards=backwards)
            both.append((y == 63 - np.arange(64)).all())
        assert both == [bool(barrier)] * 2


def test_shared_memory_begins_as_nan() -> None:
    text = "KERNEL(64, 1, 256) { __shared__ f32 a[64]; u32 t = threadIdx.x; f32* y = (f32*)p[0] + 128 * blockIdx.x; " \
           "y[t] = a[t]; y[64 + t] = SHARED(f32)[t]; SHARED(f32)[t] = 1; }\n"  # fmt: skip
    y = np.zeros((2, 128), np.float32)
    one(text, y.ctypes.data)
    assert np.isnan(y).all()


def test_the_words_are_checked() -> None:
    kernel = shim.load([PLUS])[PLUS]
    for words in (np.zeros(2, np.int64), np.zeros(3, np.int32), np.zeros((3, 1), np.int64), np.zeros(6, np.int64)[::2]):
        with pytest.raises(CudaLaunchError, match="expected 3 contiguous int64"):
            kernel(words, 1)
    with pytest.raises(CudaLaunchError, match="expected 0 to"):
        kernel(np.zeros(3, np.int64), -1)
    kernel(np.zeros(3, np.int64), 0)


def test_a_text_that_does_not_compile_is_named() -> None:
    bad = "KERNEL(64, 1) {\n    u32 i = 0;\n    nonsense(i);\n}\n"
    with pytest.raises(CudaCompileError, match=r":3:5: error: .*nonsense"):
        shim.load([PLUS, bad])


# ---- the cache --------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHMILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shim"


def compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each compilation from now on has."""
    made: list[int] = []
    build = shim._build
    monkeypatch.setattr(shim, "_build", lambda texts, sanitize: (made.append(len(texts)), build(texts, sanitize)))
    return made


def other(n: int) -> str:
    return PLUS.replace("+ 1", f"+ {n}")


def run_other(n: int, kernels: dict[str, shim.Kernel]) -> None:
    x, y = np.arange(100, dtype=np.float32), np.zeros(100, np.float32)
    kernels[other(n)](np.array([x.ctypes.data, y.ctypes.data, 100]), 2)
    assert (y == x + n).all()


def test_texts_are_compiled_once_and_together(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = compiled(monkeypatch)
    kernels = shim.load([other(2), other(3), other(2)])
    run_other(2, kernels)
    run_other(3, kernels)
    run_other(3, shim.load([other(3)]))
    assert made == [2]
    kernels = shim.load([other(k) for k in range(2, 6)])
    for k in range(2, 6):
        run_other(k, kernels)
    assert made == [2, 2]
    assert not list(fresh.glob("*.tmp"))


def test_many_texts_are_compiled_on_several_cpus(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = compiled(monkeypatch)
    monkeypatch.setattr(shim, "granted_cpus", lambda: 3)
    kernels = shim.load([other(k) for k in range(2, 42)])
    assert sorted(made) == [13, 13, 14]
    for k in range(2, 42):
        run_other(k, kernels)
    made.clear()
    shim.load([other(k) for k in range(50, 66)])
    assert made == [16]


def test_another_compiler_is_another_library(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = compiled(monkeypatch)
    shim.load([other(2)])
    monkeypatch.setattr(shim, "FLAGS", tuple("-O0" if f == "-O1" else f for f in shim.FLAGS))
    shim._prefix.cache_clear()
    run_other(2, shim.load([other(2)]))
    monkeypatch.undo()
    shim._prefix.cache_clear()
    assert made == [1, 1]


def test_a_folder_that_cannot_be_written_costs_compiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRAPHMILL_CACHE", str(tmp_path / "file" / "cache"))
    run_other(7, shim.load([other(7)]))
    made = compiled(monkeypatch)
    run_other(7, shim.load([other(7)]))
    assert made == []


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "")
    monkeypatch.setattr(shim.shutil, "which", lambda name: None)
    monkeypatch.setattr(shim.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CudaUnavailable, match="pip install ziglang"):
        shim.compiler.__wrapped__()
    monkeypatch.setattr(shim.importlib.util, "find_spec", lambda name: object())
    assert shim.compiler.__wrapped__() == (sys.executable, "-m", "ziglang", "cc")
    monkeypatch.setattr(shim.shutil, "which", lambda name: name)
    assert shim.compiler.__wrapped__() == ("c++",)
    monkeypatch.setenv("CXX", "ccache clang++-19")
    assert shim.compiler.__wrapped__() == ("ccache", "clang++-19")
    for system, machine in (("darwin", "aarch64"), ("linux", "riscv64")):
        monkeypatch.setattr(shim.sys, "platform", system)
        monkeypatch.setattr(shim.platform, "machine", lambda machine=machine: machine)
        with pytest.raises(CudaUnavailable, match=f"this is {machine} {system}"):
            shim.compiler.__wrapped__()


def test_threads_of_the_host_take_turns() -> None:
    text = "KERNEL(256, 2) { f32 x = blockIdx.x; for (int k = 0; k < 20; k++) x = block_sum<THREADS>(x) / 256;" \
           " ((f32*)p[0])[blockIdx.x * 256 + threadIdx.x] = x + p[1]; }\n"  # fmt: skip
    kernel, results = shim.load([text])[text], [np.zeros((40, 256), np.float32) for _ in range(4)]
    threads = [threading.Thread(target=kernel, args=(np.array([y.ctypes.data, k]), 40)) for k, y in enumerate(results)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for k, y in enumerate(results):
        assert (y == np.arange(40)[:, None] + k).all()


def test_ziglang_serves_where_there_is_no_compiler(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang", reason="the package ziglang is not installed")
    monkeypatch.setattr(shim, "compiler", lambda: (sys.executable, "-m", "ziglang", "cc"))
    shim._prefix.cache_clear()
    shim._version.cache_clear()
    try:
        run_other(2, shim.load([other(2)]))
    finally:
        shim._prefix.cache_clear()
        shim._version.cache_clear()
    assert os.listdir(fresh)
