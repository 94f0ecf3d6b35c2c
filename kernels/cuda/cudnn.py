"""Convolutions and attention by cuDNN's graph API, through its Python frontend (package nvidia-cudnn-frontend).

A graph is built when sizes come first, and kept; its plans, of which cuDNN names the likely fastest first, are built when they are
asked for. Names of tensors are their numbers (uid): the fields of the text.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.locks import fork_safe_lock
from .library import WORKSPACE, CudaLibraryError, Declaration
from .nvrtc import CudaUnavailable, candidates

TYPES = {"f16": "HALF", "bf16": "BFLOAT16", "f32": "FLOAT"}
MOST_GRAPHS = 512
ALIGNED = 16  # bytes, which plans count on
OPERANDS = ("x", "w", "q", "k", "v", "mask", "bias", "addend", "y")  # uids are places in this, from 1 on


@functools.cache
def frontend() -> Any:
    """cuDNN's Python module, the library loaded. Raises CudaUnavailable."""
    said = []
    for path in candidates("cudnn", "cudnn"):
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)  # where the module looks for its symbols
            break
        except OSError as e:
            said.append(f" ({e})")
    try:
        return importlib.import_module("cudnn")
    except ImportError as e:
        raise CudaUnavailable("rung = 'libraries' computes convolutions and attention by cuDNN, which cannot be imported "
                              f"({e}{''.join(said)}); try `pip install nvidia-cudnn-frontend==1.26.* nvidia-cudnn-cu13` "
                              "(CUDA 12: nvidia-cudnn-cu12)") from e  # fmt: skip


@functools.cache
def version() -> str:
    """The library's version, "" where it is not here."""
    try:
        return str(frontend().backend_version())
    except (CudaUnavailable, RuntimeError):
        return ""


class Cudnn:
    """A handle of cuDNN, for the device that is current when it is made."""

    def __init__(self) -> None:
        self.frontend, self.lock = frontend(), fork_safe_lock()
        try:
            self.handle = self.frontend.create_handle()
        except RuntimeError as e:
            raise CudaUnavailable(f"cuDNN cannot be used: {e}; is nvidia-cudnn-cu13 (CUDA 12: nvidia-cudnn-cu12) installed?") from e


@functools.cache
def handle(device: int) -> Cudnn:
    """The handle of a device, which is current; never destroyed, as cuBLASLt's."""
    return Cudnn()


class GraphCall:
    """The call that a text declares: a graph for each of its sizes."""

    def __init__(self, dnn: Cudnn, declared: Declaration, clear: Callable[[int, int, int], None]):
        """`clear(address, bytes, stream)` sets memory to zero: what attention is without keys."""
        self._dnn, self._declared, self._clear = dnn, declared, clear
        self._plans: OrderedDict[tuple[int, ...], _Plans] = OrderedDict()

    def __call__(self, words: np.ndarray, stream: int) -> None:
        """Asks for the graph on a stream. Raises CudaLibraryError."""
        given = words.tolist()
        if self._declared.what == "attention":
            n, heads, _, queries, keys, _, width = self._declared.sizes(given)[:7]
            if not keys:
                return self._clear(self._declared.address("y", given), 2 * n * heads * queries * width, stream)
        with self._dnn.lock:
            self._plans_of(given).run(given, stream)

    def choices(self, words: np.ndarray) -> int:
        """How many plans there are for these words."""
        with self._dnn.lock:
            return self._plans_of(words.tolist()).count

    def _plans_of(self, words: list[int]) -> _Plans:
        key = tuple(self._declared.sizes(words))
        if key not in self._plans:
            self._plans[key] = _Plans(self._dnn, self._declared, key)
            if len(self._plans) > MOST_GRAPHS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]


class _Plans:
    """A graph for one set of sizes, and the plans that cuDNN has for it."""

    def __init__(self, dnn: Cudnn, declared: Declaration, sizes: tuple[int, ...]):
        self._dnn, self._declared = dnn, declared
        fe = dnn.frontend
        self._graph = _asked(lambda: graph(fe, declared, sizes, dnn.handle))
        _asked(self._graph.build_operation_graph)
        _asked(lambda: self._graph.create_execution_plans([fe.heur_mode.A, fe.heur_mode.FALLBACK]))
        self.count: int = self._graph.get_execution_plan_count()
        first = int(declared.fields.get("algorithm", 0))
        for number in sorted(range(self.count), key=lambda n: n != first):
            try:
                return self.choose(number)
            except CudaLibraryError as e:
                said = e
        raise CudaLibraryError(f"cuDNN has no plan ({said if self.count else 'of none'}); compile with rung='tensor'")

    def choose(self, number: int) -> None:
        _asked(lambda: self._graph.build_plan_at_index(number))
        if self._graph.get_workspace_size_plan_at_index(number) > WORKSPACE:
            raise CudaLibraryError(f"plan {number} of cuDNN needs more than {WORKSPACE} bytes of workspace")
        self.chosen = number

    def run(self, words: list[int], stream: int) -> None:
        d = self._declared
        pointers = {uid(name): d.address(name, words) for name in OPERANDS if name in d.fields}
        if d.what == "attention":  # of which heads may begin within other columns
            for name, at in zip("qkv", d.sizes(words)[7:10], strict=True):
                pointers[uid(name)] += 2 * at
        if any(at % ALIGNED for at in pointers.values()):
            raise CudaLibraryError(f"cuDNN takes operands at multiples of {ALIGNED} bytes, and one lies elsewhere; "
                                   "copy it or compile with rung='tensor'")  # fmt: skip
        _asked(lambda: self._dnn.frontend.set_stream(handle=self._dnn.handle, stream=stream))
        _asked(lambda: self._graph.execute_plan_at_index(pointers, d.workspace(words), self.chosen, self._dnn.handle))


def _asked(call: Callable[[], Any]) -> Any:
    """What the frontend answers. Raises CudaLibraryError."""
    try:
        return call()
    except Exception as e:  # of several types, which the module does not all name
        raise CudaLibraryError(f"cuDNN: {e}") from e


def uid(name: str) -> int:
    """The number of an operand's tensor."""
    return 1 + OPERANDS.index(name)


# ---- graphs -------------------------------------------------------------------------------------------------------------


def graph(fe: Any, d: Declaration, sizes: tuple[int, ...], handle: Any = None) -> Any:
    """The graph that a text declares for these sizes, validated: for that no GPU is needed."""
    types, single = fe.data_type, fe.data_type.FLOAT
    made = fe.pygraph(io_data_type=getattr(types, TYPES[d["type"]]), intermediate_data_type=single, compute_data_type=single,
                      **({} if handle is None else {"handle": handle}))  # fmt: skip
    y, dims, steps = (_conv if d.what == "conv" else _sdpa)(made, d, sizes)
    y.set_output(True).set_data_type(getattr(types, TYPES[d["type"]])).set_uid(uid("y")).set_dim(dims).set_stride(steps)
    made.validate()
    return made


def _tensor(made: Any, name: str, dims: list[int], steps: list[int]) -> Any:
    return made.tensor(name=name, dim=dims, stride=steps, uid=uid(name))


def _last(dims: list[int]) -> list[int]:
    """The steps of images whose channels are last, whose dims are named with the channels first."""
    _, c, height, width = dims
    return [c * height * width, 1, width * c, c]


def _conv(made: Any, d: Declaration, sizes: tuple[int, ...]) -> tuple[Any, list[int], list[int]]:
    """act(conv(x, w) + addend + bias), in this order, for which there are precompiled engines."""
    n, c, per_group, k, h, w, oh, ow, kh, kw, top, left = sizes
    shapes = {"x": [n, c, h, w], "w": [k, per_group, kh, kw], "addend": [n, k, oh, ow], "bias": [1, k, 1, 1]}
    given = {name: _tensor(made, name, dims, _last(dims)) for name, dims in shapes.items() if name in d.fields}
    y = made.conv_fprop(image=given["x"], weight=given["w"], padding=[top, left], stride=d.ints("strides"),
                        dilation=d.ints("dilations"))  # fmt: skip
    for name in ("addend", "bias"):
        if name in given:
            y = made.add(y, given[name])
    if d["activation"] == "relu":
        y = made.relu(input=y)
    return y, shapes["addend"], _last(shapes["addend"])


def _sdpa(made: Any, d: Declaration, sizes: tuple[int, ...]) -> tuple[Any, list[int], list[int]]:
    """softmax(scale * q k' + mask) v."""
    n, q_heads, heads, queries, keys, depth, width, _, _, _, *steps = sizes
    q, k, v, y, mask = ([*steps[3 * i : 3 * i + 3], 1] for i in range(5))
    more: dict[str, Any] = {}
    if "mask" in d.fields:  # dense, and of one element along the axes that it has no step along
        dims = [size if step else 1 for size, step in zip((n, q_heads, queries), mask, strict=False)] + [keys]
        more["bias"] = _tensor(made, "mask", dims, [math.prod(dims[a + 1 :]) for a in range(4)])
    y_, _ = made.sdpa(name="attention", q=_tensor(made, "q", [n, q_heads, queries, depth], q),
                      k=_tensor(made, "k", [n, heads, keys, depth], k), v=_tensor(made, "v", [n, heads, keys, width], v),
                      is_inference=True, attn_scale=float.fromhex(d["scale"]) if "scale" in d.fields else depth**-0.5,
                      use_causal_mask=d["causal"] == "1", **more)  # fmt: skip
    return y_, [n, q_heads, queries, width], y
