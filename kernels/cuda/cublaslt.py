"""Products by cuBLASLt, called through ctypes: with stream and workspace in every call, so that it can be captured in a graph.

Names, numbers and types are those of cublasLt.h. Matrices are column-major there: a row-major product Y = A B is asked for as
Y' = B' A', whose operands are the very same bytes.
"""

from __future__ import annotations

import ctypes
import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.locks import fork_safe_lock
from .library import WORKSPACE, CudaLibraryError, Declaration
from .nvrtc import CudaUnavailable, candidates

TYPES = {"f32": 0, "f64": 1, "f16": 2, "bf16": 14}  # cudaDataType
COMPUTE = {"f32": 68, "f64": 70, "tf32": 77}  # cublasComputeType_t
TRANSA, TRANSB, EPILOGUE, BIAS_POINTER = 3, 4, 7, 8  # cublasLtMatmulDescAttributes_t
BATCH_COUNT, BATCH_OFFSET = 5, 6  # cublasLtMatrixLayoutAttribute_t
MAX_WORKSPACE, REDUCTION_SCHEMES, ALIGNMENT_OF_A = 1, 3, 5  # cublasLtMatmulPreferenceAttributes_t; B, C and D follow A
IN_COMPUTE_TYPE = 2  # cublasLtReductionScheme_t: the others add the parts of a cut reduction in the result's type, so in 16 bits
EPILOGUES = {"none": 1, "relu": 2, "gelu_tanh": 32}  # cublasLtEpilogue_t
WITH_BIAS = 4
MOST_ALGORITHMS = 32  # that the heuristic is asked for
MOST_ALIGNED = 64  # bytes, as memory of a plan is aligned; more says nothing
MOST_PLANS = 512


class _Algorithm(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t"""

    _fields_ = [("data", ctypes.c_uint64 * 8), ("workspace", ctypes.c_size_t), ("state", ctypes.c_int), ("waves", ctypes.c_float),
                ("reserved", ctypes.c_int * 4)]  # fmt: skip


@functools.cache
def library() -> Any:
    """cuBLASLt, loaded. Raises CudaUnavailable."""
    said = []
    for path in candidates("cublasLt", "cublas"):
        try:
            return ctypes.CDLL(path)
        except OSError as e:
            said.append(f" ({e})")
    raise CudaUnavailable("rung = 'libraries' multiplies by cuBLASLt, which is not here: expected libcublasLt.so in a wheel, "
                          "CUDA_PATH or /usr/local/cuda; try `pip install nvidia-cublas` (CUDA 13) or `nvidia-cublas-cu12`"
                          + "".join(said))  # fmt: skip


@functools.cache
def version() -> str:
    """The library's version, "" where it is not here."""
    try:
        get = library().cublasLtGetVersion
    except CudaUnavailable:
        return ""
    get.restype = ctypes.c_size_t
    return str(get())


class CublasLt:
    """A handle of cuBLASLt, for the device that is current when it is made."""

    def __init__(self) -> None:
        self._library, self.handle = library(), ctypes.c_void_p()
        self.lock = fork_safe_lock()
        self("Create", ctypes.byref(self.handle))

    def __call__(self, name: str, *args: Any) -> None:
        """Calls cublasLt<name>. Raises CudaLibraryError."""
        code = getattr(self._library, f"cublasLt{name}")(*args)
        if code:
            text = self._library.cublasLtGetStatusString
            text.restype = ctypes.c_char_p
            raise CudaLibraryError(f"cublasLt{name}: {text(code).decode()}")


@functools.cache
def handle(device: int) -> CublasLt:
    """The handle of a device, which is current; never destroyed, since at the end of a process the driver may be gone before it."""
    return CublasLt()


class Matmul:
    """The call that a text declares (libraries.matmul). What must be made for sizes is made when they come first."""

    def __init__(self, lt: CublasLt, declared: Declaration, clear: Callable[[int, int, int], None]):
        """`clear(address, bytes, stream)` sets memory to zero: what a product is whose reduction is empty."""
        self._lt, self._declared, self._clear = lt, declared, clear
        self._plans: OrderedDict[tuple[int, ...], _Plan] = OrderedDict()

    def __call__(self, words: np.ndarray, stream: int) -> None:
        """Asks for the product on a stream. Raises CudaLibraryError."""
        given = words.tolist()
        rows, columns, depth, batches = self._declared.sizes(given)[:4]
        if not depth:
            item = {"f64": 8, "f32": 4}.get(self._declared["type"], 2)
            self._clear(self._declared.address("y", given), batches * rows * columns * item, stream)
            return
        with self._lt.lock:
            self._plan(given).run(given, stream)

    def choices(self, words: np.ndarray) -> int:
        """How many algorithms there are for these words."""
        with self._lt.lock:
            return len(self._plan(words.tolist()).algorithms)

    def _plan(self, words: list[int]) -> _Plan:
        addresses = [self._declared.address(name, words) for name in ("a", "b", "addend", "y", "bias")]
        aligned = [min(x & -x, MOST_ALIGNED) if x else MOST_ALIGNED for x in addresses]
        key = (*self._declared.sizes(words), *aligned)
        if key not in self._plans:
            self._plans[key] = _Plan(self._lt, self._declared, words, aligned)
            if len(self._plans) > MOST_PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]


class _Plan:
    """A product of one size: its descriptors, and the algorithms that there are for it."""

    def __init__(self, lt: CublasLt, d: Declaration, words: list[int], aligned: list[int]):
        self._lt, self._declared, self._made = lt, d, list[tuple[str, ctypes.c_void_p]]()
        rows, columns, depth, batches, a_line, b_line, a_batch, b_batch = d.sizes(words)
        scale = "f64" if d["type"] == "f64" else "f32"
        number = ctypes.c_double if scale == "f64" else ctypes.c_float
        self._alpha, self._beta = (number(float.fromhex(d[name])) for name in ("alpha", "beta"))
        self._product = self._new("MatmulDesc", COMPUTE[d["compute"]], TYPES[scale])
        trans_a, trans_b = d.ints("transpose")
        self._set("MatmulDesc", self._product, TRANSA, ctypes.c_int32(trans_b))
        self._set("MatmulDesc", self._product, TRANSB, ctypes.c_int32(trans_a))
        epilogue = EPILOGUES[d["activation"]]
        if "bias" in d.fields:
            epilogue = WITH_BIAS if d["activation"] == "none" else epilogue | WITH_BIAS
        self._set("MatmulDesc", self._product, EPILOGUE, ctypes.c_int32(epilogue))
        self._point_at_bias(words)  # the heuristic looks at how it is aligned
        self._a = self._layout(*((rows, depth) if trans_a else (depth, rows)), a_line, batches, a_batch)
        self._b = self._layout(*((depth, columns) if trans_b else (columns, depth)), b_line, batches, b_batch)
        self._y = self._layout(columns, rows, columns, batches, rows * columns)
        self.algorithms = self._found(aligned)
        self.chosen = min(int(d.fields.get("algorithm", 0)), len(self.algorithms) - 1)

    def _new(self, kind: str, *args: Any) -> ctypes.c_void_p:
        """A descriptor of this kind, which lives as long as the plan."""
        made = ctypes.c_void_p()
        self._lt(f"{kind}Create", ctypes.byref(made), *args)
        self._made.append((kind, made))
        return made

    def _set(self, kind: str, of: ctypes.c_void_p, attribute: int, value: Any) -> None:
        """Sets an attribute of a descriptor to a number of ctypes."""
        self._lt(f"{kind}SetAttribute", of, attribute, ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value)))

    def _layout(self, rows: int, columns: int, line: int, batches: int, step: int) -> ctypes.c_void_p:
        """A column-major matrix, of which `line` elements lie between neighbouring columns."""
        sizes = ctypes.c_uint64(rows), ctypes.c_uint64(columns), ctypes.c_int64(line)
        layout = self._new("MatrixLayout", TYPES[self._declared["type"]], *sizes)
        if batches > 1:
            self._set("MatrixLayout", layout, BATCH_COUNT, ctypes.c_int32(batches))
            self._set("MatrixLayout", layout, BATCH_OFFSET, ctypes.c_int64(step))
        return layout

    def _found(self, aligned: list[int]) -> list[_Algorithm]:
        """The algorithms that the heuristic knows, which it thinks the fastest first."""
        a, b, addend, y, _ = aligned
        preference, found, count = self._new("MatmulPreference"), (_Algorithm * MOST_ALGORITHMS)(), ctypes.c_int()
        self._set("MatmulPreference", preference, MAX_WORKSPACE, ctypes.c_uint64(WORKSPACE))
        self._set("MatmulPreference", preference, REDUCTION_SCHEMES, ctypes.c_uint32(IN_COMPUTE_TYPE))
        for i, nbytes in enumerate((b, a, addend if "addend" in self._declared.fields else y, y)):
            self._set("MatmulPreference", preference, ALIGNMENT_OF_A + i, ctypes.c_uint32(nbytes))
        descriptors = self._product, self._b, self._a, self._y, self._y, preference
        self._lt("MatmulAlgoGetHeuristic", self._lt.handle, *descriptors, MOST_ALGORITHMS, ctypes.byref(found), ctypes.byref(count))
        good = [a for a in found[: count.value] if a.state == 0]
        if not good:
            raise CudaLibraryError("cuBLASLt has no algorithm for a product; compile with rung='tensor'")
        return good

    def _point_at_bias(self, words: list[int]) -> None:
        if "bias" in self._declared.fields:
            address = ctypes.c_void_p(self._declared.address("bias", words))
            self._set("MatmulDesc", self._product, BIAS_POINTER, address)

    def run(self, words: list[int], stream: int) -> None:
        """Asks for the product by the chosen algorithm. The heuristic also names some that the library then refuses: the first of
        the others that it takes is chosen in the place of such a one."""
        self._point_at_bias(words)
        refused: CudaLibraryError | None = None
        for number in (self.chosen, *(i for i in range(len(self.algorithms)) if i != self.chosen)):
            try:
                self._ask(self.algorithms[number], words, stream)
            except CudaLibraryError as e:
                refused = refused or e
            else:
                self.chosen = number
                return
        assert refused is not None
        raise refused

    def _ask(self, algorithm: _Algorithm, words: list[int], stream: int) -> None:
        a, b, y = (ctypes.c_void_p(self._declared.address(name, words)) for name in ("a", "b", "y"))
        addend = ctypes.c_void_p(self._declared.address("addend", words)) if "addend" in self._declared.fields else y
        self._lt("Matmul", self._lt.handle, self._product, ctypes.byref(self._alpha), b, self._b, a, self._a,
                 ctypes.byref(self._beta), addend, self._y, y, self._y, ctypes.byref(algorithm),
                 ctypes.c_void_p(self._declared.workspace(words)), ctypes.c_size_t(WORKSPACE), ctypes.c_void_p(stream))  # fmt: skip

    def __del__(self) -> None:
        for kind, made in self._made:
            self._lt(f"{kind}Destroy", made)
