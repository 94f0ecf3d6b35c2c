"""Compiling, checking, caching and loading kernels."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from graphmill.kernels.cpu import cache as store
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


def test_a_module_has_one_visible_function():
    import llvmlite.binding as llvm

    text = SCALE.format(3.25)
    data = objects.compile_kernel(text)
    assert data[:4] == b"\x7fELF"
    assert objects.undefined_symbols(data) == set()
    module, machine = objects._module(text, "entry")
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
    monkeypatch.setenv("GRAPHMILL_CPU_FEATURES", "+sse2")
    objects._environment.cache_clear()
    try:
        assert objects.object_key(text) != key
    finally:
        monkeypatch.undo()
        objects._environment.cache_clear()
    assert objects.object_key(text) == key != objects.object_key(text + "\n")


def test_the_key_covers_all_files_that_make_code():
    """Whatever vector.py, language.py and the files that vector.py names import from this folder, but for the cache itself."""
    from graphmill.kernels.cpu import vector

    folder, todo = Path(objects.__file__).parent, ["vector", "language", "objects", *vector.ELSEWHERE]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in seen and (folder / f"{name}.py").exists():
            seen.add(name)
            tree = ast.parse((folder / f"{name}.py").read_text())
            found = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 1]
            todo += [m for n in found for m in ([n.module] if n.module else [a.name for a in n.names])]
    assert {f"{n}.py" for n in seen - {"cache"}} == set(objects.EMITTERS)


# ---- the cache's upkeep -----------------------------------------------------------------------------------------


def paths() -> str:
    return os.pathsep.join([str(Path(__file__).parent), *(p for p in sys.path if p)])


def fill(n: int) -> list[str]:
    """So many objects (of no use); their keys, the longest unused first."""
    keys = [f"{i:02x}" * 32 for i in range(n)]
    for i, key in enumerate(keys):
        assert store.write_cached(key, bytes(1000), {"text": "t", "cpu": "c"})
        os.utime(store.object_path(key), (time.time() - (n - i) * 86_400,) * 2)
    return keys


def test_equal_texts_give_equal_objects_whatever_was_compiled_before():
    first = objects.compile_kernel(SCALE.format(1.75))
    objects.compile_kernel(SCALE.format(6.5))
    assert objects.compile_kernel(SCALE.format(1.75)) == first


def test_a_miss_is_explained(cache, monkeypatch):
    text = SCALE.format(0.75)
    assert objects.compile_many([text]) == ["text: no kernel of this text was compiled yet"]
    assert objects.compile_many([text]) == []
    monkeypatch.setattr(objects, "_addresses", {})
    assert objects.compile_many([text]) == []
    here = objects.environment()
    for field, value, told in (("cpu", "i386", f"cpu: {here['cpu']}, now i386"), ("llvmlite", "9.9", f"llvmlite: {here['llvmlite']}, now 9.9"),
                               ("code", "0", "code: graphmill's kernel generator has changed"),
                               ("features", here["features"] + ",+mine", "features: +mine is new")):  # fmt: skip
        about = objects.about(text) | {field: value}
        assert store.explain_misses([("0" * 64, about)]) == [told]
    about = objects.about(text) | {"cpu": "i386", "llvmlite": "9.9"}
    assert store.explain_misses([("0" * 64, about)]) == [f"cpu: {here['cpu']}, now i386, llvmlite: {here['llvmlite']}, now 9.9"]
    path = store.object_path(objects.object_key(text))
    path.write_bytes(path.read_bytes()[:-1])
    (why,) = objects.compile_many([text])
    assert why.startswith("damaged")


@pytest.mark.parametrize("raw", [b"", b"x" * 40, b"\xff" * 2000, bytes(36), bytes(32) + b"\2\0\0\0[]"])
def test_files_that_are_no_objects(cache, raw):
    key = "ab" * 32
    store.object_path(key).parent.mkdir(parents=True)
    store.object_path(key).write_bytes(raw)
    (entry,) = store.entries()
    assert store.read_cached(key) is None and entry.about() is None and not entry.is_good()
    assert store.write_cached(key, b"object", {"text": "t"}) and store.read_cached(key) == b"object" and entry.is_good()


def test_the_longest_unused_go_first(cache):
    keys, size = fill(5), next(store.entries()).nbytes
    assert [e.key for e in store.prunable(most_days=3.5)] == keys[1::-1]
    assert [e.key for e in store.prunable(most_bytes=2 * size)] == keys[2::-1]
    assert store.prunable(most_bytes=5 * size) == [] and len(store.prunable(most_bytes=0)) == 5
    assert store.read_cached(keys[0]) is not None  # used again, and so the last to go
    assert [e.key for e in store.prunable(most_bytes=4 * size)] == [keys[1]]
    assert len(store.remove(store.prunable(most_bytes=4 * size))) == 1 and len(list(store.entries())) == 4


def test_what_a_killed_process_left_is_removed(cache):
    """kill -9 in the middle of a write: nothing is half there, and the next to write in that folder cleans up."""
    code = """
import os, signal, sys
from graphmill.kernels.cpu import cache
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
cache.write_cached("ab" * 32, b"object" * 1000, {"text": "t"})
"""
    env = os.environ | {"PYTHONPATH": paths()}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == -signal.SIGKILL
    (left,) = [p for p in cache.rglob("*") if p.is_file()]
    assert left.suffix == ".tmp" and list(store.entries()) == [] and store.read_cached("ab" * 32) is None
    store.write_cached("ab" * 31 + "00", b"x", {})
    assert left.exists()  # it could still be in use
    os.utime(left, (time.time() - store.ABANDONED - 1,) * 2)
    store.write_cached("ab" * 31 + "01", b"x", {})
    assert not left.exists() and len(list(store.entries())) == 2


def test_many_processes_write_read_and_prune_at_once(cache):
    code = """
import sys
from graphmill.kernels.cpu import cache
for i in range(300):
    key = f"{i % 7:02x}" * 32
    cache.write_cached(key, bytes([i % 7]) * 5000, {"text": "t"})
    data = cache.read_cached(key)
    assert data is None or data == bytes([i % 7]) * 5000
    if i % 50 == int(sys.argv[1]):
        cache.remove(cache.prunable(most_bytes=12_000))
"""
    env = os.environ | {"PYTHONPATH": paths()}
    running = [subprocess.Popen([sys.executable, "-c", code, str(i)], env=env) for i in range(4)]
    assert [p.wait(120) for p in running] == [0] * 4
    assert all(e.is_good() for e in store.entries()) and not list(cache.rglob("*.tmp"))


def test_a_folder_that_is_read_only_serves(cache, monkeypatch):
    """Files are found and read; nothing fails for what cannot be written (the superuser may write anyway, so calls fail here)."""
    scaled(9.5)
    monkeypatch.setattr(objects, "_addresses", {})

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only file system")

    for name in ("utime", "replace", "unlink", "mkdir"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(store, "USED_AGAIN", -1)
    before = objects.compiled_count()
    assert np.array_equal(scaled(9.5), np.arange(37) * 9.5) and objects.compiled_count() == before
    assert not store.write_cached("cd" * 32, b"x", {}) and store.remove(store.entries()) == []


def test_receipts(cache):
    assert store.read_receipt("00" * 32) is None
    assert store.write_receipt("00" * 32, [[0, 1, "f32", [2, 3]]]) and store.read_receipt("00" * 32) == [[0, 1, "f32", [2, 3]]]
    store.receipt_path("00" * 32).write_text("{")
    assert store.read_receipt("00" * 32) is None and [e.is_good() for e in store.entries()] == [False]
    assert json.loads(json.dumps([e.about() for e in store.entries()])) == [{}]


# ---- what is refused --------------------------------------------------------------------------------------------


def test_a_kernel_that_may_raise_is_refused():
    text = "def kernel(p, tile, ntiles):\n    if tile > 5:\n        raise ValueError('no')\n"
    with pytest.raises(objects.KernelCompileError, match="line 3: Raise is no statement of kernel texts"):
        objects.compile_kernel(text)


def test_what_the_c_library_does_not_provide_is_refused(monkeypatch):
    monkeypatch.setattr(objects, "ALLOWED", objects.ALLOWED - {"asinf"})
    with pytest.raises(objects.KernelCompileError, match="needs asinf, which only the C library may provide"):
        objects.compile_kernel(SCALE.replace("mul(get_f32(x, i), f32({0}))", "asin(get_f32(x, i))"))


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


def test_cached_kernels_run_without_the_compiler(cache):
    scaled(7.0)
    code = f"""
import sys
from graphmill.kernels.cpu import cache as store
from graphmill.kernels.cpu import objects
import graphmill.kernels.cpu.target as target
target._KERNELS._load()
assert objects.kernel_address({SCALE.format(7.0)!r})
assert "graphmill.kernels.cpu.language" not in sys.modules and objects.compiled_count() == 0
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
    env = {"GRAPHMILL_CACHE": str(cache), "GRAPHMILL_CPU": "x86-64-v2", "GRAPHMILL_CPU_FEATURES": "+sse4.2"}
    path = os.pathsep.join([str(Path(__file__).parent), *(p for p in sys.path if p)])
    subprocess.run([sys.executable, "-c", OLDER], check=True, env=os.environ | env | {"PYTHONPATH": path})
