"""If, Loop, Scan and SequenceMap, operators that run their regions; and `fail`, for a region that must not be run.

References are given each region as a callable whose `types` are those of the region's outputs, and the `budget` of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import RunError
from ..limits import Budget
from ..op import InferContext, Onnx, OnnxCall, op
from ..symbols import INF, DimLike, symbols_of
from ..types import BOOL, I64, OptionalType, SequenceType, TensorType, Type
from .contents import agree, checked, entry

# ---- types


def join(c: InferContext, a: Type | None, b: Type | None) -> Type | None:
    """The narrowest type that holds both; dims that differ become new symbols. Raises InferenceError where there is none."""
    if a is None or b is None or a == b:
        return b if a is None else a
    if isinstance(a, TensorType) and isinstance(b, TensorType) and a.dtype == b.dtype:
        if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
            return TensorType(a.dtype, None)
        return TensorType(a.dtype, tuple(x if x == y else c.symbol() for x, y in zip(a.shape, b.shape)))
    if isinstance(a, SequenceType) and isinstance(b, SequenceType):
        return SequenceType(join(c, a.elem, b.elem))  # type: ignore[arg-type]
    if isinstance(a, OptionalType) or isinstance(b, OptionalType):
        inner = (t.elem if isinstance(t, OptionalType) else t for t in (a, b))
        return OptionalType(join(c, *inner))  # type: ignore[arg-type]
    raise c.error(f"no type holds both {a} and {b}")


def refreshed(c: InferContext, t: Type | None, known: set[str] | None = None) -> Type | None:
    """`t` with new symbols for the dims that are no constants: what another run, or another element, may have otherwise.

    Dims over symbols whose names stand in `known` are kept.
    """
    if isinstance(t, TensorType) and t.shape is not None:
        return t.with_(shape=tuple(d if {s.name for s in symbols_of(d)} <= (known or set()) else c.symbol() for d in t.shape))
    if isinstance(t, (SequenceType, OptionalType)):
        return type(t)(refreshed(c, t.elem, known))  # type: ignore[arg-type]
    return t


def outer_symbols(c: InferContext) -> set[str]:
    """The names of the symbols in the operands' types; others may belong to the inside of a region."""
    types: list[Any] = list(c.types)
    found: set[str] = set()
    while types:
        t = types.pop()
        if isinstance(t, TensorType):
            found |= {s.name for d in t.shape or () for s in symbols_of(d)}
        elif isinstance(t, (SequenceType, OptionalType)):
            types.append(t.elem)
    return found


def _stacked(c: InferContext, t: Type | None, count: DimLike, axis: int = 0) -> TensorType:
    """What `count` values of type `t` make when they are stacked along a new axis."""
    if not isinstance(t, TensorType):
        raise c.error(f"a scan output has the type {t}, expected a tensor")
    if t.shape is None:
        return t
    axis = c.axis(axis, len(t.shape) + 1)
    shape = refreshed(c, t, outer_symbols(c)).shape  # type: ignore[union-attr]
    return TensorType(t.dtype, checked(c, (*shape[:axis], count, *shape[axis:])))  # type: ignore[index]


def _stack(parts: Sequence[np.ndarray], t: Type | None, axis: int = 0) -> np.ndarray:
    """The parts along a new axis. Without any, an empty tensor of the type; its unknown sizes are 0."""
    if parts and axis == 0 and parts[0].ndim and len({p.shape for p in parts}) == 1:
        return np.concatenate(parts).reshape(len(parts), *parts[0].shape)  # which takes half the time for many small ones
    if parts:
        return np.stack(parts, axis)
    if not isinstance(t, TensorType) or t.shape is None:
        raise ValueError(f"no iteration ran, and the rank of a scan output ({t}) is not known")
    shape = [d if isinstance(d, int) else 0 for d in t.shape]
    shape.insert(axis if axis >= 0 else axis + len(shape) + 1, 0)
    return np.zeros(shape, t.dtype.np)


class _Scans:
    """The scan outputs of one loop while they grow."""

    def __init__(self, count: int, budget: Budget, what: str):
        self.parts: list[list[np.ndarray]] = [[] for _ in range(count)]
        self.budget, self.what, self.nbytes = budget, what, 0

    def add(self, values: Sequence[np.ndarray]) -> None:
        if not self.parts and not values:
            return
        for part, value in zip(self.parts, values, strict=True):
            part.append(value)
            self.nbytes += value.nbytes
        if not self.budget.fits(self.nbytes):
            self.budget.check_bytes(self.what, self.nbytes)


# ---- if


def _infer_if(c: InferContext) -> list[Type | None]:
    then, other = c.region_types
    if len(then) != len(other):
        raise c.error(f"then_branch has {len(then)} results and else_branch {len(other)}; expected as many")
    cond = c.data(0)
    if cond is not None and cond.size == 1 and cond.dtype != object:
        return list(then if cond.item() else other)
    return [join(c, a, b) for a, b in zip(then, other)]


@op(
    "if",
    onnx="If",
    infer=_infer_if,
    regions=("then_branch", "else_branch"),
    traits=("control",),
    results=None,
    dtypes={"cond": {BOOL}},
)
def if_(cond, *, then_branch, else_branch, budget):
    """The results of one of two regions."""
    if cond.size != 1:
        raise ValueError(f"the condition has {cond.size} elements, expected one")
    return tuple(then_branch() if cond.item() else else_branch())


# ---- loop


def _infer_loop(c: InferContext) -> list[Type | None]:
    (outs,) = c.region_types
    n = max(len(c.types) - 2, 0)
    if len(outs) < n + 1:
        raise c.error(f"the body has {len(outs)} results; expected a condition and {n} carried values at least")
    trips, cond = entry(c, 0) if c.has(0) else None, c.data(1)
    never = (isinstance(trips, int) and trips <= 0) or (cond is not None and cond.dtype != object and not cond.any())
    if never:
        return [*c.types[2:], *(_stacked(c, t, 0) for t in outs[1 + n :])]
    count = c.symbol(0, trips if isinstance(trips, int) else INF)
    return [*(join(c, a, b) for a, b in zip(c.types[2:], outs[1:])), *(_stacked(c, t, count) for t in outs[1 + n :])]


@op(
    "loop",
    onnx="Loop",
    infer=_infer_loop,
    regions=("body",),
    traits=("control",),
    results=None,
    dtypes={"M": {I64}, "cond": {BOOL}},
)
def loop(M=None, cond=None, *v_initial, body, budget):
    """Runs `body(i, cond, *carried) -> (cond, *carried, *scanned)` while `cond` holds, at most M times.

    The results are the last carried values and each scanned value of all iterations, stacked. A condition that the body returns
    ends the loop also where no `cond` is given, as ONNX Runtime and onnx.reference have it.
    """
    trips = None if M is None else int(M.item())
    go = cond is None or bool(cond.item())
    carried, scans, i = tuple(v_initial), _Scans(len(body.types) - 1 - len(v_initial), budget, "loop"), 0
    behind = 1 + len(carried)
    while go and (trips is None or i < trips):
        budget.trip("loop")
        out = body(np.array(i, np.int64), np.array(go), *carried)
        go, carried = bool(out[0].item()), out[1:behind]
        scans.add(out[behind:])
        i += 1
    return (*carried, *(_stack(p, t) for p, t in zip(scans.parts, body.types[1 + len(carried) :])))


# ---- scan


def _scan_8(call: OnnxCall) -> None:
    """Opset 8: a batch axis before the scanned one, and sequence_lens as the first operand."""
    call.attrs["batched"] = 1
    directions = call.attrs.pop("directions", None)
    if directions is not None:
        call.attrs["scan_input_directions"] = tuple(directions)


def _flags(value: Sequence[int] | None, count: int) -> Sequence[int]:
    return (0,) * count if value is None else value


def _infer_scan(c: InferContext) -> list[Type | None]:
    (outs,) = c.region_types
    first, batched = (1, 1) if c.attr("batched") else (0, 0)
    m = c.attr("num_scan_inputs")
    n = len(c.types) - first - m
    if m < 1 or n < 0 or len(outs) < n:
        raise c.error(f"num_scan_inputs = {m} does not fit {len(c.types) - first} operands and {len(outs)} results of the body")
    count, batch = _scan_sizes(c, first + n, m)
    axes = _flags(c.attr("scan_output_axes"), len(outs) - n)
    if not batched:
        states = [join(c, a, b) for a, b in zip(c.types[first:], outs[:n])]
        return [*states, *(_stacked(c, t, count, a) for t, a in zip(outs[n:], axes))]
    states = [join(c, a, _stacked(c, b, batch)) for a, b in zip(c.types[first:], outs[:n])]
    return [*states, *(_stacked(c, _stacked(c, t, count), batch) for t in outs[n:])]


def _scan_sizes(c: InferContext, first: int, m: int) -> tuple[DimLike, DimLike]:
    """How many iterations there are and how many batch entries."""
    count: DimLike | None = None
    batch: DimLike | None = None
    axes = _flags(c.attr("scan_input_axes"), m)
    for i, axis in zip(range(first, first + m), axes):
        shape = c.shape(i)
        if shape is None:
            continue
        axis = 1 if c.attr("batched") else c.axis(axis, len(shape))
        if len(shape) <= axis:
            raise c.error(f"the scan input {c.t(i)} has no axis {axis}")
        count = shape[axis] if count is None else agree(c, count, shape[axis], "the scanned axes")
        batch = shape[0]
    return c.symbol() if count is None else count, c.symbol() if batch is None else batch


@op(
    "scan", onnx=Onnx("Scan", since=8, before={9: _scan_8}), infer=_infer_scan, regions=("body",), traits=("control",), results=None
)
def scan(
    *initial_state_and_scan_inputs,
    body,
    budget,
    num_scan_inputs,
    scan_input_axes=None,
    scan_input_directions=None,
    scan_output_axes=None,
    scan_output_directions=None,
    batched=0,
):
    """Runs `body(*states, *slices) -> (*states, *scanned)` for each slice of the scan inputs.

    Directions of 1 go from the end, or stack from the end. With `batched` (opset 8) each entry of axis 0 is a run of its own along
    axis 1, of the length that operand 0 gives for it, and what lies behind its end is 0.
    """
    operands = initial_state_and_scan_inputs
    if batched:
        return _batched_scan(operands, body, budget, num_scan_inputs, _flags(scan_input_directions, num_scan_inputs))
    n = len(operands) - num_scan_inputs
    states, inputs = operands[:n], operands[n:]
    scanned = [np.moveaxis(x, a, 0) for x, a in zip(inputs, _flags(scan_input_axes, len(inputs)), strict=True)]
    reverse = _flags(scan_input_directions, len(inputs))
    states, parts = _scan_once(states, scanned, reverse, body, budget)
    k = len(parts)
    back, axes = _flags(scan_output_directions, k), _flags(scan_output_axes, k)
    outs = (_stack(p[::-1] if b else p, t, a) for p, t, a, b in zip(parts, body.types[n:], axes, back, strict=True))
    return (*states, *outs)


def _scan_once(
    states: Sequence[Any], inputs: list[np.ndarray], reverse: Sequence[int], body: Callable, budget: Budget
) -> tuple[Sequence[Any], list[list[np.ndarray]]]:
    """The last states, and for each scan output its values in the order of the iterations. Inputs are scanned along axis 0."""
    count, n = len(inputs[0]), len(states)
    if any(len(x) != count for x in inputs):
        raise ValueError(f"the scanned axes have the sizes {[len(x) for x in inputs]}, expected equal ones")
    if count > budget.fed:
        budget.iterate("scan", count)
    scans = _Scans(len(body.types) - n, budget, "scan")  # type: ignore[attr-defined]
    inputs = [x[::-1] if r else x for x, r in zip(inputs, reverse)]
    for i in range(count):
        budget.check_time("scan")
        out = body(*states, *[np.asarray(x[i]) for x in inputs])
        states = out[:n]
        scans.add(out[n:])
    return states, scans.parts


def _batched_scan(
    operands: Sequence[Any], body: Callable, budget: Budget, m: int, reverse: Sequence[int]
) -> tuple[np.ndarray, ...]:
    lens, states, inputs = operands[0], operands[1 : len(operands) - m], operands[len(operands) - m :]
    batch, longest = inputs[0].shape[:2]
    rows = []
    for b in range(batch):
        size = longest if lens is None else int(lens[b])
        last, parts = _scan_once([s[b] for s in states], [x[b, :size] for x in inputs], reverse, body, budget)
        outs = [_stack(p, t) for p, t in zip(parts, body.types[len(states) :])]  # type: ignore[attr-defined]
        padded = [np.concatenate([o, np.zeros((longest - size, *o.shape[1:]), o.dtype)]) for o in outs]
        rows.append([*last, *padded])
    return tuple(np.stack(column) for column in zip(*rows))


# ---- sequence_map


def _infer_sequence_map(c: InferContext) -> list[Type]:
    if not isinstance(c.types[0], SequenceType):
        raise c.error(f"input_sequence has the type {c.types[0]}, expected a sequence")
    return [SequenceType(refreshed(c, t, outer_symbols(c))) for t in c.region_types[0]]  # type: ignore[arg-type]


@op(
    "sequence_map",
    onnx=Onnx("SequenceMap", since=17),
    infer=_infer_sequence_map,
    regions=("body",),
    traits=("control", "host"),
    results=None,
)
def sequence_map(input_sequence, *additional_inputs, body, budget):
    """`body` of each element; further sequences go along element by element, tensors are handed to each run as they are."""
    budget.iterate("sequence_map", len(input_sequence))
    columns: list[list[Any]] = [[] for _ in body.types]
    for i, x in enumerate(input_sequence):
        budget.check_time("sequence_map")
        out = body(x, *(a[i] if isinstance(a, list) else a for a in additional_inputs))
        for column, value in zip(columns, out):
            column.append(value)
    return tuple(columns)


# ---- fail


@op("fail", infer=lambda c: [], traits=("host", "effect"), results=0)
def fail(*, message):
    """Raises RunError: its graph cannot be run to the end, whatever the inputs. What stands behind it is never run."""
    raise RunError(message)
