"""The steps of a plan: what runs one node."""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

import numpy as np

from ..ir.core import Node, Value
from ..ir.errors import GraphmillError, RunError
from ..ir.infer import where
from ..ir.interp import bind_dims, bind_symbols, run_node, sizes
from ..ir.layout import physical
from ..ir.limits import Budget, nbytes_of
from ..ir.symbols import DimLike, evaluate
from ..ir.types import DType, TensorType
from ..kernels.spec import Call, KernelSource, Launch
from .binding import Symbols
from .control import handed_on
from .device import Device, fetch, plain
from .memory import aligned_copy, as_aligned
from .sizes import check_size, concrete_types, nbytes_of_shape, result_shapes, seen
from .workspace import Workspace

if TYPE_CHECKING:
    from .bound import Bound
    from .plan import Plan
    from .ways import Leg


class Watch(Protocol):
    """Who watches a run and the regions in it."""

    def leg(self, plan: Plan, at: int, bound: Bound | None, frame: Frame) -> None:
        """Runs a bound segment, or (None) the step `at`."""

    def control(self, run: Callable[[], Any]) -> Any:
        """Runs a control operator, which runs regions."""

    def call(self, plan: Plan, run: Callable[[], tuple]) -> tuple:
        """Runs a region."""


@dataclass
class Frame:
    """One run of one graph: its values (in physical order), the symbols known so far, what the run may still use."""

    values: dict[Value, Any]
    symbols: Symbols
    budget: Budget
    threads: int = 1
    workspace: Workspace = field(default_factory=Workspace)
    held: int = 0  # bytes of the values that this frame's steps made and that live yet
    places: Mapping[Value, np.ndarray] = field(default_factory=dict)  # where the caller wants outputs, if they have this shape
    legs: list[Leg] | None = None  # which parts the run had, where that is to be kept (see `ways.py`)
    on_device: bool = False  # whether outputs stay in the device's memory
    watch: Watch | None = None  # who runs them, where they are timed (see `profile.py`)
    _evaluated: dict[DimLike, int] = field(default_factory=dict)

    def evaluate(self, d: DimLike) -> int:
        """The value of a dim, kept: symbols are never bound again. Raises Unbound."""
        n = self._evaluated.get(d)
        if n is None:
            n = self._evaluated[d] = evaluate(d, self.symbols)
        return n

    def get(self, v: Value | None) -> Any:
        return None if v is None else v.const.array if v.const is not None else self.values[v]  # constants: logical order

    def logical(self, v: Value | None) -> Any:
        """The value with its axes in logical order (a view where it lies otherwise)."""
        x = self.get(v)
        if v is not None and not v.is_const and isinstance(v.type, TensorType) and v.type.layout is not None:
            return x.transpose(v.type.layout.inverse())
        return x

    def output(self, v: Value) -> Any:
        """The value in logical order as an output of its graph: constants are only to be read."""
        return self.logical(v) if v.const is None else read_only(v.const.array)

    def put(self, v: Value, x: Any) -> None:
        """Stores a result given in logical order."""
        if isinstance(v.type, TensorType):
            if v.type.layout is not None:
                x = fetch(x).transpose(v.type.layout.perm)
            if isinstance(x, np.ndarray):
                x = np.require(x, requirements=["C", "A"])
        self.values[v] = x

    def hold(self, v: Value, sign: int = 1) -> None:
        """Counts a value as held, or with `sign` -1 as held no longer. A view counts like what it is a view of."""
        n = sign * nbytes_of(self.values.get(v))
        self.held += n
        self.budget.held += n


def read_only(a: np.ndarray) -> np.ndarray:
    """A view that cannot be written to, so that who hands it to a caller makes a copy (`outputs.owned`)."""
    a = a.view()
    a.flags.writeable = False
    return a


@dataclass(frozen=True)
class Served:
    """How a node will run: native (kernel, view, sizes), host (control flow and lists) or reference, and why not native; or that it
    fails wherever it is run (`fail`), and why: what stands behind it in its region has no entry."""

    node: str
    op: str
    how: str
    reason: str = ""
    locs: tuple[str, ...] = ()


class Step:
    """One node of a plan."""

    how = "native"

    def __init__(self, node: Node):
        self.node = node
        self.name = where(node)
        self.frees: list[Value] = []

    def run(self, frame: Frame) -> None:
        raise NotImplementedError


class ViewStep(Step):
    """Reshapes, and transposes that move nothing, share memory with their operand; only the shape is found."""

    def run(self, frame: Frame) -> None:
        (result,) = self.node.results
        (logical,) = result_shapes(self.node, frame)
        shape = physical(logical, result.tensor.layout)
        x = frame.get(self.node.operands[0])
        frame.values[result] = (x if hasattr(x, "reshape") else np.asarray(x)).reshape(shape)
        bind_dims(result.tensor, logical, frame.symbols)


class SizeStep(Step):
    """`shape`, `size` and `dims`: integers that follow from sizes alone."""

    def run(self, frame: Frame) -> None:
        node = self.node
        if node.op.name == "dims":
            out = sizes(node, frame.symbols)
        else:
            out = node.op.reference(frame.logical(node.operands[0]), **node.all_attrs())  # type: ignore[misc]
        frame.put(node.results[0], np.asarray(out))


class HostStep(Step):
    """The operator's reference; regions of control flow run by their own plans."""

    def __init__(self, node: Node, plans: Sequence[Plan], how: str):
        super().__init__(node)
        self.plans, self.how = plans, how
        self.around = node.captures() if plans else []  # what the regions read from outside

    def run(self, frame: Frame) -> None:
        node = self.node
        values = [frame.logical(v) for v in node.operands]
        if not self.plans:
            results = self._reference([fetch(x) for x in values], frame)
        else:
            there, _ = handed_on(node)
            results = self._control([plain(x) if i in there else fetch(x) for i, x in enumerate(values)], frame)
        for v, x in zip(node.results, results):
            frame.put(v, x)
            bind_symbols(v.type, x, frame.symbols)

    def _reference(self, operands: list[Any], frame: Frame) -> list[Any]:
        """The results by the reference; while it computes, their bytes count as held."""
        nbytes = check_size(self.node, operands, frame)
        frame.budget.held += nbytes
        try:
            return run_node(self.node, operands, None, frame.budget)
        finally:
            frame.budget.held -= nbytes

    def _control(self, operands: list[Any], frame: Frame) -> list[Any]:
        node, attrs = self.node, self.node.all_attrs()
        for name, plan in zip(node.op.regions, self.plans):
            attrs[name] = plan.callable(frame, self.around)
        run = functools.partial(node.op.reference, *operands, budget=frame.budget, **attrs)  # type: ignore[arg-type, misc]
        try:
            out = run() if frame.watch is None else frame.watch.control(run)
        except GraphmillError:
            raise
        except Exception as e:
            raise RunError(f"{where(node)}: {type(e).__name__}: {e}") from e
        return list(out) if isinstance(out, tuple) else [out]


_packed_once: WeakValueDictionary[tuple, np.ndarray] = WeakValueDictionary()  # by contents: what several nodes pack alike


class KernelStep(Step):
    """A compiled kernel. `copies` are the aligned copies of constants, which the steps of a plan share."""

    def __init__(self, node: Node, source: KernelSource, address: int, copies: dict[Any, np.ndarray] | None = None):
        super().__init__(node)
        self._copies = {} if copies is None else copies
        self.source, self.address = source, address
        self._checks = _may_not_fit(node)
        self._packed = {i: self._pack(i, pack) for i, pack in source.pack.items() if node.operands[i].is_const}  # type: ignore[union-attr]
        self._bound: OrderedDict[Any, Launch] = OrderedDict()
        self._constants: dict[int, np.ndarray] = {}
        self.tables = [aligned_copy(t) for t in source.tables]
        # How many of the kernel's words are addresses: those of operands, results, scratch memory and tables.
        self.pointers = sum(v is not None for v in node.operands) + len(node.results) + 1 + len(self.tables)

    def _pack(self, i: int, pack: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        v = self.node.operands[i]
        packed = as_aligned(pack(v.const.array))  # type: ignore[union-attr]
        if len(v.uses) < 2 or not packed.flags.writeable:  # type: ignore[union-attr]
            return packed
        key = packed.dtype.str, packed.shape, hashlib.sha256(packed.reshape(-1).view(np.uint8).data).digest()
        return _packed_once.setdefault(key, packed)

    def check(self, frame: Frame) -> None:
        """Raises RunError where sizes do not go together that are known only now: a kernel would read beyond an operand."""
        if self._checks:
            concrete_types(self.node, [seen(frame.logical(v)) for v in self.node.operands])

    @property
    def packed(self) -> dict[int, np.ndarray]:
        """The constants that the kernel reads packed, by operand."""
        return self._packed

    def constant(self, i: int) -> np.ndarray:
        """The constant that is operand i, as the kernel reads it: packed or laid out once."""
        v = self.node.operands[i]
        assert v is not None and v.const is not None
        if i in self._packed:
            return self._packed[i]
        if i not in self._constants:
            layout = v.tensor.layout
            if (v, layout) not in self._copies:
                self._copies[v, layout] = as_aligned(v.const.array if layout is None else v.const.array.transpose(layout.perm))
            self._constants[i] = self._copies[v, layout]
        return self._constants[i]

    def run(self, frame: Frame) -> None:
        node, device = self.node, frame.workspace.device
        read = [v for v in node.operands if v is not None and not v.is_const]
        if not device.is_host:
            frame.values.update(zip(read, device.bring([frame.values[v] for v in read])))
        arrays = [None if v is None else self.constant(i) if v.is_const else frame.values[v] for i, v in enumerate(node.operands)]
        shapes, launch = self._bind(arrays, frame)
        results = [_empty(device, physical(shape, v.tensor.layout), v.tensor.dtype) for v, shape in zip(node.results, shapes)]
        length = device.execute(self, [a for a in arrays if a is not None], results, launch, frame.threads)
        for j, v in enumerate(node.results):
            frame.values[v] = device.trim(results[j], self.source.trim[j], length) if self.source.trim else results[j]
            bind_dims(v.tensor, np.shape(frame.logical(v)), frame.symbols)

    def _bind(self, arrays: list[np.ndarray | None], frame: Frame) -> tuple[list[tuple[int, ...]], Launch]:
        node = self.node
        host = {i: np.asarray(fetch(frame.logical(node.operands[i]))) for i in self.source.host if node.operand(i) is not None}
        logical = [None if v is None else np.shape(frame.logical(v)) for v in node.operands]
        bound = self.source.bound
        self.check(frame)
        shapes = result_shapes(node, frame) if bound is None else [tuple(s) for s in bound(Call(logical, (), host))]
        nbytes = sum(nbytes_of_shape(shape, v.tensor.dtype) for v, shape in zip(node.results, shapes))
        if not frame.budget.fits(nbytes):
            frame.budget.check_bytes(where(node), nbytes)
        key = (
            tuple(None if a is None else a.shape for a in arrays),
            tuple(shapes),
            tuple((i, x.tobytes()) for i, x in host.items()),
        )
        launch = self._bound.get(key)
        if launch is None:
            try:
                launch = self.source.bind(Call(logical, shapes, host))
            except ValueError as e:
                raise RunError(f"{self.name}: {e}") from e
            self._bound[key] = launch
            if len(self._bound) > 64:
                self._bound.popitem(last=False)
        if not frame.budget.fits(nbytes + launch.scratch):
            frame.budget.check_bytes(where(node), nbytes + launch.scratch)
        return shapes, launch


def _may_not_fit(node: Node) -> bool:
    """Whether only a run tells that the operands' sizes go together. Kernels of elementwise nodes see to that themselves."""
    types = [v.type for v in node.operands if v is not None]
    loops = node.op.is_elementwise or (node.op.name == "fused" and node.attr("kernel") == "loops")
    return len(types) > 1 and not loops and any(isinstance(t, TensorType) and not t.is_static for t in types)


def _empty(device: Device, shape: tuple[int, ...], dtype: DType) -> Any:
    return device.empty(nbytes_of_shape(shape, dtype)).view(dtype.np).reshape(shape)
