"""What CUDA has built in and what the prelude adds, run on the CPU against numpy; the same texts compile for GPUs."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from graphmill.kernels.cuda import shim
from graphmill.kernels.cuda.source import fast_div

from .harness import ARCHITECTURES, check_compiles, needs_nvrtc, needs_shim

HEAD = "    u32 t = threadIdx.x, lane = t % 32, i = blockIdx.x * THREADS + t;\n"


def kernel(body: str, threads: int = 64, words: int = 3, shared: int = 0) -> str:
    return f"KERNEL({threads}, {words}, {shared}) {{\n{HEAD}{body}\n}}\n"


TEXTS = {
    "reverse": kernel("__shared__ i32 a[64]; a[t] = ((i32*)p[0])[i]; __syncthreads(); ((i32*)p[1])[i] = a[63 - t];"),
    "dynamic": kernel("f32* a = SHARED(f32); a[t] = i; __syncthreads(); ((f32*)p[1])[i] = a[t ^ 1];", shared=256),
    "counts": kernel("int v = ((i32*)p[0])[i]; ((i32*)p[1])[i] = __syncthreads_count(v) + 1000 * (__syncthreads_or(v) != 0)"
                     " + 2000 * (__syncthreads_and(v) != 0);"),
    "votes": kernel("int v = ((i32*)p[0])[i]; u32 b = __ballot_sync(~0u, v); ((u32*)p[1])[i] = b; ((i32*)p[2])[i] ="
                    " (__any_sync(~0u, v) != 0) + 2 * (__all_sync(~0u, v) != 0) + 4 * __popc(b) + 1000 * __ffs(b);"),
    "shuffles": kernel("f64 v = ((f64*)p[0])[i]; f64* y = (f64*)p[1] + 9 * i; y[0] = __shfl_sync(~0u, v, 5); y[1] = __shfl_sync(~0u,"
                       " v, 5, 8); y[2] = __shfl_up_sync(~0u, v, 3); y[3] = __shfl_up_sync(~0u, v, 3, 8); y[4] = __shfl_down_sync("
                       "~0u, v, 3); y[5] = __shfl_down_sync(~0u, v, 3, 16); y[6] = __shfl_xor_sync(~0u, v, 17); y[7] ="
                       " __shfl_xor_sync(~0u, v, 3, 8); y[8] = __shfl_sync(~0u, v, lane * 7);"),
    "half a warp": kernel("i32 v = i; if (lane < 16) v = __shfl_xor_sync(0xffffu, v, 8); else v = 2 * __shfl_sync(0xffff0000u, v, 20);"
                          " __syncwarp(); ((i32*)p[1])[i] = v + __reduce_add_sync(~0u, 1);"),
    "some lanes": kernel("u32 m = __ballot_sync(~0u, lane % 3 == 0); i32 v = -1; if (lane % 3 == 0) v = __shfl_sync(m, (i32)lane, 3);"
                         " ((i32*)p[1])[i] = v;"),
    "atomics": kernel("i32* y = (i32*)p[1]; u32* z = (u32*)p[2]; atomicAdd(y, 2); atomicSub(y + 1, 3); atomicMax(y + 2, (i32)i);"
                      " atomicMin(y + 3, -(i32)i); atomicOr(y + 4, 1 << (i % 31)); atomicXor(y + 5, (i32)i); atomicAnd(y + 6, ~(1 << (t % 7)));"
                      " if (t == 9) atomicExch(y + 7, 77); atomicCAS(y + 8, 0, 5); atomicMax(z, i); atomicAdd((u64*)(z + 2), 1ull << 31);"),
    "bits": kernel("u32 x = ((u32*)p[0])[i]; u32* y = (u32*)p[1] + 8 * i; y[0] = __popc(x); y[1] = __clz(x); y[2] = __ffs(x); y[3] ="
                   " __brev(x); y[4] = __byte_perm(x, ~x, 0x6174); y[5] = __umulhi(x, 0x9E3779B9u); y[6] = __dp4a((i32)x, 0x01FF7F80, -3);"
                   " y[7] = __clzll(x) + __ffsll((i64)x << 20) + (u32)__umul64hi((u64)x << 32, 3ull << 40);"),
    "divides": kernel("FastDiv d(p[2]); u32 x = ((u32*)p[0])[i]; u32* y = (u32*)p[1]; y[2 * i] = x / d; y[2 * i + 1] = x % d;"),
    "vectors": kernel("float4 v = ((const float4*)p[0])[i]; ((float4*)p[1])[i] = make_float4(v.w, v.z, v.y, v.x);"
                      " uchar4 w = make_uchar4(i, t, 3, 4); ushort2 u = make_ushort2(i, t); ((uchar4*)p[2])[2 * i] = w; ((ushort2*)p[2])[2 * i + 1] = u;"),
    "from half": kernel("((f32*)p[1])[i] = half_to_float(((u16*)p[0])[i]);", 256),
    "to half": kernel("f32 x = ((f32*)p[0])[i]; ((u16*)p[1])[i] = float_to_half(x); ((u16*)p[2])[i] = float_to_bfloat(x);", 256),
    "two halves": kernel("f32 x = ((f32*)p[0])[i]; ((u32*)p[1])[i] = floats_to_halves(x, -2 * x);"
                         " ((u32*)p[2])[i] = floats_to_bfloats(x, -2 * x);", 256),
    "double to half": kernel("((u16*)p[1])[i] = double_to_half(((f64*)p[0])[i]);", 256),
    "folds": kernel("f32 x = ((f32*)p[0])[i]; f32* y = (f32*)p[1] + 10 * i; y[0] = warp_sum(x); y[1] = warp_max(x); y[2] = warp_min(x); y[3] ="
                    " warp_prod(x); y[4] = block_sum<THREADS>(x); y[5] = block_max<THREADS>(x); y[6] = block_min<THREADS>(x); y[7] ="
                    " block_prod<THREADS>(x); y[8] = warp_sum<4>(x); y[9] = warp_max<8>(x);", 96),
    "other folds": kernel("i64 x = ((i64*)p[0])[i]; i64* y = (i64*)p[1] + 4 * i; y[0] = block_sum<THREADS>(x); y[1] ="
                          " block_max<THREADS>(x); y[2] = block_min<THREADS>((u8)x); y[3] = (i64)block_max<THREADS>((f64)x);", 128),
    "folds in turn": kernel("i32 v = t; for (int k = 0; k < 5; k++) v = block_sum<THREADS>(v % 7 + (i32)t); ((i32*)p[1])[i] = v;", 128),
    "some end": kernel("if (t % 3 == 0) return; ((i32*)p[1])[i] = __syncthreads_count(t % 2);"),
    "own fold": "struct Place { f32 x; u32 i; };\n" + kernel(
        "Place a = block_fold<THREADS>(Place{((f32*)p[0])[i], t}, [](Place a, Place b) { return b.x > a.x || (b.x == a.x && b.i < a.i)"
        " ? b : a; }); if (t == 0) ((u32*)p[1])[blockIdx.x] = a.i;", 256),
}  # fmt: skip


def run(name: str, *arrays: np.ndarray | int, blocks: int = 1, backwards: bool = False) -> None:
    """Runs a text of TEXTS on arrays whose ends are guarded; they are changed in place."""
    own = [shim.guarded(a) if isinstance(a, np.ndarray) else a for a in arrays]
    words = [a.ctypes.data if isinstance(a, np.ndarray) else a for a in own]
    shim.load(TEXTS.values())[TEXTS[name]](np.array([*words, 0, 0][:3], np.int64), blocks, backwards=backwards)
    for a, b in zip(arrays, own, strict=True):
        if isinstance(a, np.ndarray):
            a[...] = b


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_texts_compile_for_gpus(arch: str) -> None:
    check_compiles(list(TEXTS.values()), arch)


# ---- blocks and warps -------------------------------------------------------------------------------------------

either_way = pytest.mark.parametrize("backwards", [False, True])
N = np.arange(128)


@needs_shim
@either_way
def test_barriers_and_shared_memory(backwards: bool) -> None:
    y = np.zeros(128, np.int32)
    run("reverse", N.astype(np.int32), y, blocks=2, backwards=backwards)
    assert (y == N.reshape(2, 64)[:, ::-1].ravel()).all()
    y = np.zeros(128, np.float32)
    run("dynamic", 0, y, blocks=2, backwards=backwards)
    assert (y == (N ^ 1)).all()


@needs_shim
@either_way
def test_barriers_that_count(backwards: bool) -> None:
    x = np.zeros(4 * 64, np.int32)
    x[64:67], x[128:192] = (1, -5, 3), 9
    y = np.zeros_like(x)
    run("counts", x, y, blocks=4, backwards=backwards)
    assert [set(b) for b in y.reshape(4, 64).tolist()] == [{0}, {1003}, {3064}, {0}]


@needs_shim
@either_way
def test_threads_that_have_ended_are_not_waited_for(backwards: bool) -> None:
    y = np.full(128, -1, np.int32)
    run("some end", 0, y, blocks=2, backwards=backwards)
    t = N % 64
    assert (y == np.where(t % 3 == 0, -1, (t[:64] % 2)[t[:64] % 3 != 0].sum())).all()


@needs_shim
@either_way
def test_votes(backwards: bool) -> None:
    x = np.random.default_rng(0).integers(-1, 2, 128).astype(np.int32)
    x[32:64], x[64:96] = 0, 1
    b, rest = np.zeros(128, np.uint32), np.zeros(128, np.int32)
    run("votes", x, b, rest, blocks=2, backwards=backwards)
    for w in range(4):
        v = x[32 * w : 32 * w + 32] != 0
        bits = sum(1 << int(k) for k in np.flatnonzero(v))
        first = int(np.argmax(v)) + 1 if v.any() else 0
        assert (b[32 * w : 32 * w + 32] == bits).all()
        assert (rest[32 * w : 32 * w + 32] == v.any() + 2 * v.all() + 4 * v.sum() + 1000 * first).all()


@needs_shim
@either_way
def test_shuffles(backwards: bool) -> None:
    x = np.random.default_rng(0).standard_normal(128)
    y = np.zeros((128, 9))
    run("shuffles", x, y, blocks=2, backwards=backwards)
    lane = N % 32
    down16 = np.where(lane % 16 + 3 < 16, lane + 3, lane)
    xor8 = lane ^ 3
    want = [0 * lane + 5, lane // 8 * 8 + 5, np.where(lane >= 3, lane - 3, lane), np.where(lane % 8 >= 3, lane - 3, lane),
            np.where(lane + 3 < 32, lane + 3, lane), down16, lane ^ 17, xor8, lane * 7 % 32]  # fmt: skip
    for k, source in enumerate(want):
        assert (y[:, k] == x[N - lane + source]).all(), k


@needs_shim
@either_way
def test_operations_of_some_lanes(backwards: bool) -> None:
    y = np.zeros(128, np.int32)
    run("half a warp", 0, y, blocks=2, backwards=backwards)
    assert (y == np.where(N % 32 < 16, N ^ 8, 2 * (N // 32 * 32 + 20)) + 32).all()
    run("some lanes", 0, y, blocks=2, backwards=backwards)
    assert (y == np.where(N % 32 % 3 == 0, 3, -1)).all()


@needs_shim
@either_way
def test_atomics(backwards: bool) -> None:
    y, z = np.zeros(9, np.int32), np.zeros(4, np.uint32)
    y[6] = -1
    run("atomics", 0, y, z, blocks=2, backwards=backwards)
    xor = 0
    for i in range(128):
        xor ^= i
    assert y.tolist() == [256, -384, 127, -127, 2**31 - 1, xor, -128, 77, 5]
    assert z[0] == 127 and z[2:].view(np.uint64)[0] == 128 << 31


# ---- functions --------------------------------------------------------------------------------------------------


@needs_shim
def test_functions_of_bits() -> None:
    x = np.random.default_rng(0).integers(0, 2**32, 64, dtype=np.uint64).astype(np.uint32)
    x[:4] = 0, 1, 2**31, 2**32 - 1
    y = np.zeros((64, 8), np.uint32)
    run("bits", x, y)
    signed = lambda b: b - 256 if b > 127 else b  # noqa: E731
    for v, got in zip(x.tolist(), y.tolist(), strict=True):
        ffs = (v & -v).bit_length()
        low = [*v.to_bytes(4, "little"), *(v ^ 2**32 - 1).to_bytes(4, "little")]
        dot = sum(signed(a) * signed(b) for a, b in zip(low[:4], (0x80, 0x7F, 0xFF, 0x01), strict=True)) - 3
        ffsll = ((v << 20) & -(v << 20)).bit_length()
        assert got == [v.bit_count(), 32 - v.bit_length(), ffs, int(f"{v:032b}"[::-1], 2),
                       low[4] | low[7] << 8 | low[1] << 16 | low[6] << 24, v * 0x9E3779B9 >> 32, dot % 2**32,
                       64 - v.bit_length() + ffsll + (v * 3 << 72 >> 64) % 2**32 & 2**32 - 1]  # fmt: skip


@needs_shim
@pytest.mark.parametrize("d", [1, 2, 3, 7, 10, 641, 65536, 65537, 2**30 - 1, 2**30, 2**31 - 1])
def test_divisions(d: int) -> None:
    x = np.random.default_rng(d).integers(0, 2**31, 64).astype(np.uint32)
    x[:8] = 0, 1, d - 1, d, 2**31 - 1, (2**31 - 1) // d * d, max((2**31 - 1) // d * d - 1, 0), 2**30
    y = np.zeros((64, 2), np.uint32)
    run("divides", x, y, fast_div(d))
    assert (y[:, 0] == x // d).all() and (y[:, 1] == x % d).all()


@needs_shim
def test_vectors() -> None:
    x = np.arange(256, dtype=np.float32).reshape(64, 4)
    y, z, i = np.zeros_like(x), np.zeros((64, 2), np.uint32), np.arange(64)
    run("vectors", x, y, z)
    assert (y == x[:, ::-1]).all() and (z[:, 0] == (i | i << 8 | 3 << 16 | 4 << 24)).all() and (z[:, 1] == (i | i << 16)).all()


def same(got: np.ndarray, want: np.ndarray) -> bool:
    """Equal bits, or NaN where NaN is wanted."""
    nan = np.isnan(want.astype(np.float32))
    return bool((np.isnan(got.astype(np.float32)) == nan).all() and (got.view(np.uint16) == want.view(np.uint16))[~nan].all())


def floats() -> np.ndarray:
    """f32 of all sizes, and those about the middle between two f16 or two bf16."""
    rng = np.random.default_rng(0)
    every = np.arange(65536, dtype=np.uint16)
    between = [(np.repeat(b.astype(np.float32).view(np.uint32), 3) + np.tile(np.array([-1, 0, 1], np.int64), 65536)).astype(np.uint32)
               for b in (every.view(np.float16), every.view(ml_dtypes.bfloat16))]  # fmt: skip
    half = [b + np.uint32(step) for b, step in zip(between, (1 << 12, 1 << 15), strict=True)]
    some = rng.integers(0, 2**32, 65536, dtype=np.uint64).astype(np.uint32)
    tiny = np.linspace(0, 2**-13, 65536, dtype=np.float32).view(np.uint32)
    return np.concatenate([*between, *half, some, tiny]).view(np.float32)


@needs_shim
def test_halves() -> None:
    x = np.arange(65536, dtype=np.uint16)
    y = np.zeros(65536, np.float32)
    run("from half", x, y, blocks=256)
    want = x.view(np.float16).astype(np.float32)
    assert np.array_equal(y.view(np.uint32)[~np.isnan(want)], want.view(np.uint32)[~np.isnan(want)])
    assert np.isnan(y[np.isnan(want)]).all()
    x = floats()
    h, b = np.zeros(x.size, np.float16), np.zeros(x.size, ml_dtypes.bfloat16)
    run("to half", x, h, b, blocks=x.size // 256)
    with np.errstate(over="ignore", invalid="ignore"):
        assert same(h, x.astype(np.float16)) and same(b, x.astype(ml_dtypes.bfloat16))
        h2, b2 = np.zeros((x.size, 2), np.float16), np.zeros((x.size, 2), ml_dtypes.bfloat16)
        run("two halves", x, h2, b2, blocks=x.size // 256)
        both = np.stack([x, -2 * x], 1)
        assert same(h2, both.astype(np.float16)) and same(b2, both.astype(ml_dtypes.bfloat16))


@needs_shim
def test_doubles_are_rounded_once() -> None:
    middle = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    x = np.concatenate([(middle[:-1] + middle[1:]) / 2 * (1 + s * 2.0**-40) for s in (-1, 0, 1)])
    x = np.concatenate([x, -x, [np.inf, -np.inf, np.nan, 65519.999999, 65520, 2.0**-25, 2.0**-25 * (1 + 2.0**-50), 1e-300]])
    x = np.resize(x, -(-x.size // 256) * 256)
    y = np.zeros(x.size, np.float16)
    run("double to half", x, y, blocks=x.size // 256)
    with np.errstate(over="ignore"):
        assert same(y, x.astype(np.float16))


# ---- folds ------------------------------------------------------------------------------------------------------


def pairwise(x: np.ndarray, f: np.ufunc) -> np.ndarray:
    """Lanes folded as the prelude does, over the last axis."""
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        x = f(x[..., :half], x[..., half:])
    return x[..., 0]


@needs_shim
@either_way
def test_folds_go_in_a_fixed_order(backwards: bool) -> None:
    x = np.random.default_rng(0).uniform(0.5, 1.5, 192).astype(np.float32)
    x[100], x[150] = np.nan, -0.0
    y = np.zeros((192, 10), np.float32)
    run("folds", x, y, blocks=2, backwards=backwards)
    warps = x.reshape(2, 3, 32)
    for k, f in enumerate((np.add, np.maximum, np.minimum, np.multiply)):
        of_warps = pairwise(warps, f)
        assert np.array_equal(y[:, k], np.repeat(of_warps, 32), equal_nan=True)
        of_blocks = f(f(of_warps[:, 0], of_warps[:, 1]), of_warps[:, 2])
        assert np.array_equal(y[:, 4 + k], np.repeat(of_blocks, 96), equal_nan=True)
    assert np.array_equal(y[:, 8], np.repeat(pairwise(x.reshape(-1, 4), np.add), 4), equal_nan=True)
    assert np.array_equal(y[:, 9], np.repeat(x.reshape(-1, 8).max(1), 8), equal_nan=True)


@needs_shim
@either_way
def test_folds_follow_each_other(backwards: bool) -> None:
    y, v = np.zeros(128, np.int32), N
    run("folds in turn", 0, y, backwards=backwards)
    for _ in range(5):
        v = (v % 7 + N).sum()
    assert (y == v).all()


@needs_shim
@either_way
def test_folds_of_other_types(backwards: bool) -> None:
    x = np.random.default_rng(0).integers(-(2**50), 2**50, 256)
    y = np.zeros((256, 4), np.int64)
    run("other folds", x, y, blocks=2, backwards=backwards)
    for b in range(2):
        own = x[128 * b : 128 * b + 128]
        assert (y[128 * b : 128 * b + 128] == [own.sum(), own.max(), (own & 255).min(), own.max()]).all()
    places = np.zeros(3, np.uint32)
    z = np.random.default_rng(1).integers(0, 50, 768).astype(np.float32)
    run("own fold", z, places, blocks=3, backwards=backwards)
    assert (places == z.reshape(3, 256).argmax(1)).all()
