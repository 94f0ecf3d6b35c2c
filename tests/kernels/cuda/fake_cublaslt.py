"""What cublaslt.py uses of cuBLASLt, on the CPU. Descriptors are dictionaries; a product is computed from what they say, column-major
as the library does it. Arguments are checked to be of the types and in the order that cublasLt.h declares."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

TYPES = {0: np.float32, 1: np.float64, 2: np.float16, 14: ml_dtypes.bfloat16}
NUMBERS = {"MatmulDesc": {3: ctypes.c_int32, 4: ctypes.c_int32, 7: ctypes.c_int32, 8: ctypes.c_void_p},
           "MatrixLayout": {5: ctypes.c_int32, 6: ctypes.c_int64},
           "MatmulPreference": {1: ctypes.c_uint64, **dict.fromkeys((3, 5, 6, 7, 8), ctypes.c_uint32)}}  # fmt: skip


class FakeLt:
    """The library; `do` is how a product gets on the stream. Kept in `log`: the names of calls."""

    def __init__(self, do: Callable[[Callable[[], None], str], None], algorithms: int = 3):
        self.log: list[str] = []
        self.living: dict[int, dict[int, Any]] = {}
        self.used: list[int] = []  # which algorithms products went by
        self.refused: set[int] = set()
        self.cublasLtGetStatusString = lambda code: b"an unsupported value" if code == 7 else b"another error"
        self._do, self._count = do, algorithms

    def __getattr__(self, name: str) -> Any:
        for kind in NUMBERS:
            for end, make in (("Create", self._create), ("SetAttribute", self._set), ("Destroy", self._destroy)):
                if name == f"cublasLt{kind}{end}":
                    return lambda *args, make=make, kind=kind, name=name: self.log.append(name) or make(kind, *args)
        raise AttributeError(name)

    def cublasLtCreate(self, handle: Any) -> int:
        handle._obj.value = 77
        return 0

    def _create(self, kind: str, made: Any, *args: Any) -> int:
        made._obj.value = 1000 + len(self.log)
        if kind == "MatrixLayout":
            assert [type(a) for a in args] == [int, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64]
            self.living[made._obj.value] = dict(zip(("type", "rows", "columns", "line"), (args[0], *(a.value for a in args[1:]))))
        else:
            names = ("compute", "scale") if kind == "MatmulDesc" else ()
            self.living[made._obj.value] = dict(zip(names, args, strict=True))
        return 0

    def _set(self, kind: str, of: ctypes.c_void_p, attribute: int, value: Any, nbytes: ctypes.c_size_t) -> int:
        assert isinstance(value._obj, NUMBERS[kind][attribute]) and nbytes.value == ctypes.sizeof(value._obj)
        self.living[of.value][attribute] = value._obj.value
        return 0

    def _destroy(self, kind: str, of: ctypes.c_void_p) -> int:
        del self.living[of.value]
        return 0

    def cublasLtMatmulAlgoGetHeuristic(self, handle: Any, product: Any, a: Any, b: Any, c: Any, d: Any, preference: Any, most: int,
                                       found: Any, count: Any) -> int:  # fmt: skip
        assert handle.value == 77 and ctypes.sizeof(found._obj) == 96 * most
        wanted = self.living[preference.value]
        assert set(wanted) == {1, 3, 5, 6, 7, 8} and wanted[1] == (32 << 20) - 256 and wanted[3] == 2  # parts are added in f32
        count._obj.value = self._count
        for i in range(self._count):
            found._obj[i].data[0], found._obj[i].state = i, 0
        return 0

    def cublasLtMatmul(self, handle: Any, product: Any, alpha: Any, a: Any, a_layout: Any, b: Any, b_layout: Any, beta: Any, c: Any,
                       c_layout: Any, d: Any, d_layout: Any, algorithm: Any, workspace: Any, nbytes: Any, stream: Any) -> int:  # fmt: skip
        assert handle.value == 77 and workspace.value % 256 == 0 and nbytes.value == (32 << 20) - 256 and stream.value
        assert ctypes.sizeof(algorithm._obj) == 96
        about = dict(self.living[product.value])
        layouts = [dict(self.living[x.value]) for x in (a_layout, b_layout, c_layout, d_layout)]
        places, scales = [x.value for x in (a, b, c, d)], (alpha._obj.value, beta._obj.value)
        if algorithm._obj.data[0] in self.refused:
            return 7
        self.used.append(algorithm._obj.data[0])
        self._do(lambda: _product(about, layouts, places, *scales), "cublasLtMatmul")
        return 0


def _matrices(layout: dict, address: int) -> np.ndarray:
    """[batches, rows, columns] of column-major memory."""
    dtype, batches, step = np.dtype(TYPES[layout["type"]]), layout.get(5, 1), layout.get(6, 0)
    assert layout["line"] >= layout["rows"]
    n = (batches - 1) * step + (layout["columns"] - 1) * layout["line"] + layout["rows"]
    raw = np.ctypeslib.as_array((ctypes.c_uint8 * (n * dtype.itemsize)).from_address(address)).view(dtype)
    steps = [s * dtype.itemsize for s in (step, 1, layout["line"])]
    return np.lib.stride_tricks.as_strided(raw, (batches, layout["rows"], layout["columns"]), steps)


def _product(about: dict, layouts: list[dict], places: list[int], alpha: float, beta: float) -> None:
    a, b, c, d = (_matrices(layout, place) for layout, place in zip(layouts, places, strict=True))
    wide = {0: np.float32, 1: np.float64}[about["scale"]]
    assert {0: (68, 77), 1: (70,)}[about["scale"]].count(about["compute"]) == 1
    x, y = ((m.transpose(0, 2, 1) if about[t] else m).astype(wide) for m, t in ((a, 3), (b, 4)))
    out = alpha * (x @ y) + (beta * c.astype(wide) if beta else 0)
    if about[7] & 4:
        bias = dict(layouts[3], rows=d.shape[1], columns=1, line=d.shape[1])
        out = out + _matrices({k: v for k, v in bias.items() if k not in (5, 6)}, about[8]).astype(wide)
    assert about[7] & ~4 in (0, 1, 2, 32) and about[7] != 5
    if about[7] & 2:
        out = np.where(out < 0, wide(0), out)
    if about[7] & 32:
        out = 0.5 * out * (1 + np.tanh(np.sqrt(2 / np.pi) * (out + 0.044715 * out**3)))
    d[...] = out.astype(d.dtype)
