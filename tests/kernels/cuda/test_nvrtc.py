"""CUDA programs to machine code without a GPU: what kernels take, the cache, what is said where something is wrong."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from graphmill.kernels.cpu.cache import entries
from graphmill.kernels.cuda import nvrtc
from graphmill.kernels.cuda.nvrtc import CudaCompileError, CudaUnavailable, Usage, compile_program, usages
from graphmill.kernels.cuda.source import entry, program

from .harness import needs_nvrtc

PLUS = "KERNEL(64, 3) { u32 i = blockIdx.x * THREADS + threadIdx.x; if (i < p[2]) ((f32*)p[1])[i] = ((f32*)p[0])[i] + 1; }\n"
SHARED = "KERNEL(64, 1) { __shared__ f32 a[128]; a[threadIdx.x] = ((f32*)p[0])[0]; __syncthreads(); ((f32*)p[0])[threadIdx.x] = a[63 - threadIdx.x]; }\n"
# 192 values that all stay alive: with 1024 threads to a block, a thread has no more than 64 registers.
SPILLS = """KERNEL(1024, 2) {
    const volatile f32* x = (const volatile f32*)p[0];
    f32 a[192];
    #pragma unroll
    for (int i = 0; i < 192; i++) a[i] = x[threadIdx.x + 1024 * i];
    #pragma unroll
    for (int k = 1; k < 192; k++) ((f32*)p[1])[threadIdx.x + 1024 * k] = a[k] * a[(k * 67) % 192] + a[191 - k];
}
"""


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHMILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """For which architectures nvrtc is asked from now on."""
    made: list[str] = []
    really = nvrtc._compile
    monkeypatch.setattr(nvrtc, "_compile", lambda source, arch: (made.append(arch), really(source, arch))[1])
    return made


# ---- compiling --------------------------------------------------------------------------------------------------


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_90a"])
def test_what_kernels_take(arch: str, fresh: Path) -> None:
    made = compile_program(program([PLUS, SHARED, SPILLS]), arch)
    assert made.cubin[:4] == b"\x7fELF" and all(entry(t).encode() in made.cubin for t in (PLUS, SHARED, SPILLS))
    assert set(made.kernels) == {entry(t) for t in (PLUS, SHARED, SPILLS)}
    plain, shared, spills = (made.kernels[entry(t)] for t in (PLUS, SHARED, SPILLS))
    assert 4 <= plain.registers <= 32 and plain == Usage(plain.registers, 0, 0, 0, 0)
    assert shared.shared == 512 and shared.spill_stores == 0
    assert spills.registers <= 64 and spills.spill_stores > 0 and spills.spill_loads > 0 and spills.stack > 0


def test_the_log_of_ptxas() -> None:
    log = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'k_1' for 'sm_90'
ptxas info    : Function properties for k_1
    264 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 264 bytes cumulative stack size, 4096 bytes smem
ptxas info    : Compile time = 5.1 ms
ptxas info    : Compiling entry function 'k_2' for 'sm_90'
ptxas info    : Function properties for k_2
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers, 384 bytes cmem[0]
"""
    assert usages(log) == {"k_1": Usage(255, 8, 12, 4096, 264), "k_2": Usage(10, 0, 0, 0, 0)}


@needs_nvrtc
def test_floats_are_strict(fresh: Path) -> None:
    """No instruction flushes denormals, and division is no approximation alone."""
    text = "KERNEL(64, 2) { f32* x = (f32*)p[0]; u32 t = threadIdx.x; x[t] = (x[t] * x[t + 64] + x[t + 128]) / x[t + 192]; }\n"
    handle, rtc = ctypes.c_void_p(), nvrtc.library()
    options = [o.encode() for o in (*nvrtc.OPTIONS, "-arch=compute_90") if "ptxas" not in o]
    assert not rtc.nvrtcCreateProgram(ctypes.byref(handle), program([text]).encode(), b"x.cu", 0, None, None)
    assert not rtc.nvrtcCompileProgram(handle, len(options), (ctypes.c_char_p * len(options))(*options))
    ptx = nvrtc._bytes(rtc, "PTX", handle).decode()
    assert "div.rn.f32" in ptx and "fma.rn.f32" in ptx and "ftz" not in ptx


# ---- errors -----------------------------------------------------------------------------------------------------


@needs_nvrtc
def test_an_error_names_the_text_and_its_line() -> None:
    bad = "KERNEL(64, 1) {\n    u32 i = 0;\n    nonsense(i);\n}\n"
    with pytest.raises(CudaCompileError) as e:
        compile_program(program([PLUS, bad]), "sm_90")
    assert f'{entry(bad)}(3): error: identifier "nonsense" is undefined' in str(e.value) and "nonsense(i);" in str(e.value)


@needs_nvrtc
def test_an_architecture_that_is_none_is_refused() -> None:
    with pytest.raises(CudaCompileError, match="sm_12345"):
        compile_program(program([PLUS]), "sm_12345")
    assert {80, 90} <= set(nvrtc.architectures()) and nvrtc.version() >= (12, 0)


def test_without_nvrtc_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "libnvrtc.so.13").write_bytes(b"no library")
    for found, said in (([], "pip install nvidia-cuda-nvrtc"), ([str(tmp_path / "libnvrtc.so.13")], "libnvrtc.so.13: ")):
        monkeypatch.setattr(nvrtc, "candidates", lambda found=found: found)
        with pytest.raises(CudaUnavailable, match=said):
            nvrtc.library.__wrapped__()


def test_which_library_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The newest of the wheels, then the system's; that of CuPy's version of CUDA before all."""
    wheels = [
        tmp_path / "nvidia" / "cu13" / "lib" / "libnvrtc.so.13",
        tmp_path / "nvidia" / "cuda_nvrtc" / "lib" / "libnvrtc.so.12",
    ]
    system = tmp_path / "cuda" / "lib64" / "libnvrtc.so.12"
    for path in (*wheels, system, wheels[0].with_name("libnvrtc.so.13.0.88")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path / "nvidia")]})
    monkeypatch.setattr(nvrtc.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(nvrtc.ctypes.util, "find_library", lambda name: "libnvrtc.so.11")
    for name in ("CUDA_HOME", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "cuda"))
    monkeypatch.setattr(nvrtc, "_cupy_major", lambda: "")
    found = [p for p in nvrtc.candidates() if p.startswith((str(tmp_path), "libnvrtc"))]
    assert found == [*map(str, wheels), str(system), "libnvrtc.so.11"]
    monkeypatch.setattr(nvrtc, "_cupy_major", lambda: "12")
    found = [p for p in nvrtc.candidates() if p.startswith((str(tmp_path), "libnvrtc"))]
    assert found == [str(wheels[1]), str(system), str(wheels[0]), "libnvrtc.so.11"]


def test_the_version_of_cuda_that_cupy_is_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lambda *names: [type("D", (), {"metadata": {"Name": n}}) for n in names]  # noqa: E731
    for names, want in ((("numpy",), ""), (("numpy", "cupy-cuda13x"), "13"), (("cupy",), "")):
        monkeypatch.setattr(nvrtc.importlib.metadata, "distributions", lambda names=names: made(*names))
        assert nvrtc._cupy_major() == want


# ---- the cache --------------------------------------------------------------------------------------------------


@needs_nvrtc
def test_a_program_is_compiled_once_for_each_architecture(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = compilations(monkeypatch)
    first = compile_program(program([PLUS]), "sm_80")
    assert compile_program(program([PLUS]), "sm_80") == first and made == ["sm_80"]
    assert compile_program(program([PLUS]), "sm_90").cubin != first.cubin and made == ["sm_80", "sm_90"]
    compile_program(program([SHARED]), "sm_80")
    assert made == ["sm_80", "sm_90", "sm_80"]
    about = [e.about() for e in entries()]
    assert len(about) == 3 and all(a is not None and a["cpu"].startswith("sm_") for a in about)
    monkeypatch.setattr(nvrtc, "OPTIONS", (*nvrtc.OPTIONS, "-lineinfo"))
    compile_program(program([PLUS]), "sm_80")
    monkeypatch.setattr(nvrtc, "version", lambda: (99, 0))
    compile_program(program([PLUS]), "sm_80")
    assert len(made) == 5


@needs_nvrtc
def test_a_damaged_file_is_made_anew(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = compilations(monkeypatch)
    first = compile_program(program([PLUS]), "sm_80")
    (file,) = entries()
    file.path.write_bytes(file.path.read_bytes()[:-9])
    assert compile_program(program([PLUS]), "sm_80").kernels == first.kernels and len(made) == 2


@needs_nvrtc
def test_a_folder_that_cannot_be_written_costs_compiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRAPHMILL_CACHE", str(tmp_path / "file" / "cache"))
    assert compile_program(program([PLUS]), "sm_80").kernels[entry(PLUS)].registers > 0


@needs_nvrtc
def test_neither_a_gpu_nor_cuda_headers_are_needed(fresh: Path) -> None:
    code = f"from graphmill.kernels.cuda import nvrtc, source\nprint(len(nvrtc.compile_program(source.program([{PLUS!r}]), 'sm_90').cubin))"
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": "", "CUDA_PATH": "/nowhere", "CUDA_HOME": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=hidden, timeout=120, check=True)
    assert int(done.stdout) > 1000
