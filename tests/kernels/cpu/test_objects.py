"""Compiling, checking, caching and loading kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from graphmill.kernels.cpu import objects
from graphmill.kernels.spec import Call, KernelSource, Launch

from .harness import launch_kernel

SCALE = """
def kernel(p, tile, ntiles):
    x = param(p, 0)
    y = param(p, 1)
    for i in range(param(p, 3)):
        put_f32(y, i, mul(get_f32(x, i), f32({0})))
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHMILL_CACHE", str(tmp_path))
    monkeypatch.setattr(objects, "_addresses", {})
    return tmp_path


def scaled(factor: float) -> np.ndarray:
    x, y = np.arange(37, dtype=np.float32), np.empty(37, np.float32)
    y = np.concatenate([y, np.full(16, 0, np.float32)])
    y.view(np.uint8)[37 * 4 :] = 0xA5
    source = KernelSource(SCALE.format(factor), lambda call: Launch((37,)))
    launch_kernel(source, Call([x.shape], [(37,)]), [x], [y[:37]])
    return y[:37]


def test_the_private_parts_of_numba_are_as_expected():
    """The canary: numba's optimised module can be had, renamed and emitted, with one visible function and nothing undefined."""
    import llvmlite.binding as llvm

    text = SCALE.format(3.25)
    data = objects.compile_kernel(text)
    assert data[:4] == b"\x7fELF"
    assert objects.undefined_symbols(data) == set()
    module, machine = objects._numba_module(text, "entry")
    visible = [f.name for f in module.functions if not f.is_declaration and f.linkage != llvm.Linkage.internal]
    assert visible == ["entry"]
    assert "entry" in machine.emit_assembly(module)


def test_compiled_once_then_found(cache, monkeypatch):
    before = objects.compiled_count()
    assert np.array_equal(scaled(2.5), np.arange(37) * 2.5)
    assert objects.compiled_count() == before + 1
    scaled(2.5)
    monkeypatch.setattr(objects, "_addresses", {})
    monkeypatch.setattr(objects, "compile_kernel", None)  # must come from the disk
    assert np.array_equal(scaled(2.5), np.arange(37) * 2.5)
    assert objects.compiled_count() == before + 1


def test_a_damaged_object_is_compiled_anew(cache, monkeypatch):
    scaled(1.5)
    (path,) = cache.rglob("*.o")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    monkeypatch.setattr(objects, "_addresses", {})
    before = objects.compiled_count()
    assert np.array_equal(scaled(1.5), np.arange(37) * 1.5)
    assert objects.compiled_count() == before + 1
    assert objects.read_cached(objects.object_key(SCALE.format(1.5))) is not None


def test_a_folder_that_cannot_be_written_costs_only_time(cache, monkeypatch):
    (cache / "file").write_text("in the way")
    monkeypatch.setenv("GRAPHMILL_CACHE", str(cache / "file" / "below"))
    assert np.array_equal(scaled(0.5), np.arange(37) * 0.5)
    objects.compile_many([SCALE.format(f) for f in (0.5, 0.25)])


def test_nothing_is_written_beside_the_objects(cache):
    scaled(1.25)
    assert [p.suffix for p in cache.rglob("*") if p.is_file()] == [".o"]


def test_the_key_depends_on_the_features_of_the_cpu(monkeypatch):
    text = SCALE.format(1)
    key = objects.object_key(text)
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+sse2")
    objects._environment.cache_clear()
    try:
        assert objects.object_key(text) != key
    finally:
        monkeypatch.undo()
        objects._environment.cache_clear()
    assert objects.object_key(text) == key != objects.object_key(text + "\n")


def test_a_kernel_that_may_raise_is_refused():
    text = "def kernel(p, tile, ntiles):\n    if tile > 5:\n        raise ValueError('no')\n"
    with pytest.raises(objects.KernelCompileError, match="which only the C library may provide"):
        objects.compile_kernel(text)


@pytest.mark.parametrize("text", ["def kernel(p, tile, ntiles):\n    nonsense(p)\n",
                                  "def kernel(p, tile, ntiles):\n    add(f32(1), f64(1))\n"])  # fmt: skip
def test_a_text_that_does_not_compile_is_shown(text):
    with pytest.raises(objects.KernelCompileError, match="def kernel"):
        objects.compile_kernel(text)


def test_functions_of_the_c_library_are_allowed_and_found(cache):
    text = SCALE.replace("mul(get_f32(x, i), f32({0}))", "asin(get_f32(x, i))")
    assert objects.undefined_symbols(objects.compile_kernel(text)) == {"asinf"}
    assert objects.kernel_address(text)


def test_many_are_compiled_in_other_processes(cache):
    texts = [SCALE.format(f) for f in (11, 12, 13, 14)]
    before = objects.compiled_count()
    objects.compile_many([*texts, *texts], jobs=2)
    assert objects.compiled_count() == before + 4
    assert all(objects.read_cached(objects.object_key(t)) for t in texts)
    objects.compile_many(texts, jobs=2)
    assert objects.compiled_count() == before + 4


def test_what_a_worker_cannot_compile_raises_here(cache):
    texts = [SCALE.format(f) for f in (21, 22, 23)] + ["def kernel(p, tile, ntiles):\n    nonsense(p)\n"]
    with pytest.raises(objects.KernelCompileError, match="nonsense"):
        objects.compile_many(texts, jobs=2)


def test_cached_kernels_run_without_numba(cache):
    scaled(7.0)
    code = f"""
import sys
from graphmill.kernels.cpu import objects
import graphmill.kernels.cpu.target as target
target._load()
assert objects.kernel_address({SCALE.format(7.0)!r})
assert "numba" not in sys.modules and objects.compiled_count() == 0
"""
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env=os.environ | {"GRAPHMILL_CACHE": str(cache)})


OLDER = """
import numpy as np
from graphmill.kernels.cpu import objects, vector
from graphmill.kernels.spec import Call, KernelSource, Launch
from harness import aligned, aligned_empty, launch_kernel
assert vector.LANES == 4 and not vector.HALF
body = "put_f16(param(p, 1), i, exp(get_f16(param(p, 0), i)))"
text = f"def kernel(p, tile, ntiles):\\n    for i in range(param(p, 3)):\\n        {body}\\n"
assert "vcvt" not in objects.kernel_assembly(text) and "fma" not in objects.kernel_assembly(text)
x = aligned(np.linspace(-5, 5, 99).astype(np.float16))
y = aligned_empty(x.shape, x.dtype)
launch_kernel(KernelSource(text, lambda call: Launch((99,))), Call([x.shape], [x.shape]), [x], [y])
np.testing.assert_allclose(y.astype(np.float64), np.exp(x.astype(np.float64)), 1e-3)
"""


def test_kernels_for_an_older_cpu(cache):
    """Without AVX, FMA and conversions of f16: the integer forms serve."""
    env = {"GRAPHMILL_CACHE": str(cache), "NUMBA_CPU_NAME": "x86-64-v2", "NUMBA_CPU_FEATURES": "+sse4.2"}
    path = os.pathsep.join([str(Path(__file__).parent), *(p for p in sys.path if p)])
    subprocess.run([sys.executable, "-c", OLDER], check=True, env=os.environ | env | {"PYTHONPATH": path})
