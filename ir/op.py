"""OpDef: the one declarative record of an operator, and the decorators that make one from a Python function.

The decorated function *is* the operator's numpy reference. Its positional parameters are the operands (a default of None
makes one optional, `*xs` is variadic), its keyword-only parameters are the attributes (without a default: required). An
attribute named in `regions` is given as a Python callable that runs the region. It returns an array, or a tuple of arrays
where there are several results.

    @op("gather", onnx="Gather", infer=infer_gather)
    def gather(data, indices, *, axis=0):
        return np.take(data, indices, axis)

Elementwise operators are declared with `@elementwise` and a function over `scalar.Expr`; their reference, type inference and
kernels on every target all come from that one expression.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import InferenceError, IRError
from .symbols import Dim, DimLike, symbol
from .types import ANY, ONNX_DTYPES, DType, TensorType, Type


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()


@dataclass(frozen=True, slots=True)
class Attr:
    """An attribute: its default (REQUIRED where there is none)."""

    default: Any = REQUIRED


@dataclass(frozen=True, slots=True)
class Operand:
    """An operand: its name, whether it may be left out, whether it takes all the rest, and the element types it takes."""

    name: str
    optional: bool = False
    variadic: bool = False
    dtypes: frozenset[DType] = ANY


@dataclass(frozen=True)
class Onnx:
    """How ONNX spells an operator.

    `before` maps an opset version to a function that rewrites an `OnnxCall` of any older opset into the newer form; all that
    apply are called, oldest first. `rename` maps ONNX attribute names to ours. `adapt` is called last, at every opset, and brings
    what is still spelled differently to our form; `export` undoes it on the way out, on an OnnxCall as well. `since` is the
    first opset that has the operator.
    """

    op_type: str
    domain: str = ""
    since: int = 1
    rename: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[int, Callable[[OnnxCall], None]] = field(default_factory=dict)
    adapt: Callable[[OnnxCall], None] | None = None
    export: Callable[[OnnxCall], None] | None = None


@dataclass
class OnnxCall:
    """An ONNX node on its way in: what `Onnx.before` functions change in place.

    `inputs` holds opaque handles (None where left out), `attrs` plain Python values (ints, floats, strings, tuples, arrays).
    `const(array)` gives a handle for a new constant, `array(handle)` the contents of a constant handle or None, `rank(handle)`
    and `dtype(handle)` what is known of its type, or None.
    """

    op_type: str
    domain: str
    opset: int
    name: str
    inputs: list[Any]
    attrs: dict[str, Any]
    n_outputs: int
    const: Callable[[np.ndarray], Any]
    array: Callable[[Any], np.ndarray | None]
    rank: Callable[[Any], int | None]
    dtype: Callable[[Any], DType | None]


class InferContext:
    """What an `infer` function is given: operand types, attributes, known contents, and ways to make symbols and errors."""

    def __init__(self, op: OpDef, types: Sequence[Type | None], attrs: Mapping[str, Any], n_results: int,
                 contents: Sequence[np.ndarray | None] = (), new_symbol: Callable[[str, int, int | None], Dim] | None = None,
                 region_types: Sequence[Sequence[Type | None]] = ()):  # fmt: skip
        self.op, self.types, self.attrs, self.n_results = op, list(types), attrs, n_results
        self.region_types = region_types  # the types of each region's outputs
        self._contents, self._new_symbol, self._fresh = contents, new_symbol, 0

    def has(self, i: int) -> bool:
        """Whether operand i is present."""
        return i < len(self.types) and self.types[i] is not None

    def t(self, i: int) -> TensorType:
        """The type of operand i, which must be a tensor."""
        t = self.types[i] if i < len(self.types) else None
        if not isinstance(t, TensorType):
            raise self.error(f"operand {self.op.operand_name(i)} has type {t}, expected a tensor")
        return t

    def shape(self, i: int) -> tuple[DimLike, ...] | None:
        return self.t(i).shape

    def rank(self, i: int) -> int | None:
        return self.t(i).rank

    def attr(self, name: str) -> Any:
        return self.attrs[name]

    def data(self, i: int) -> np.ndarray | None:
        """The contents of operand i: a numeric array where constant, an object array of int | Dim (None where one entry is
        unknown) for shape arithmetic, None where nothing is known or the operand is absent."""
        return self._contents[i] if i < len(self._contents) and self.has(i) else None

    def ints(self, i: int) -> list[DimLike | None] | None:
        """The contents of the integer operand i (rank 0 or 1) as a list of int | Dim | None; None where nothing is known."""
        d = self.data(i)
        if d is None:
            return None
        return [x if x is None or isinstance(x, (int, Dim)) else int(x) for x in np.asarray(d).ravel().tolist()]

    def symbol(self, lo: int = 0, hi: int | None = None) -> Dim:
        """A new symbol for a size that is known only at run time."""
        self._fresh += 1
        if self._new_symbol is None:
            return symbol(f"?{id(self):x}.{self._fresh}", lo)
        return self._new_symbol(str(self._fresh), lo, hi)

    def error(self, message: str) -> InferenceError:
        """The error to raise; the caller adds the node's name and location."""
        return InferenceError(f"{self.op.name}: {message}")

    def axis(self, axis: int, rank: int) -> int:
        """The axis counted from the front. Raises InferenceError when it lies outside [-rank, rank)."""
        if not -rank <= axis < max(rank, 1):
            raise self.error(f"axis {axis} is out of range for rank {rank}; expected {-rank} <= axis < {rank}")
        return axis % rank if rank else 0


def attr_to_input(name: str, index: int, dtype: Any = np.int64) -> Callable[[OnnxCall], None]:
    """A `before` function: the attribute of older opsets becomes the constant operand `index` of the newer form."""

    def move(call: OnnxCall) -> None:
        value = call.attrs.pop(name, None)
        if value is None:
            return
        call.inputs += [None] * (index + 1 - len(call.inputs))
        call.inputs[index] = call.const(np.asarray(value, dtype))

    return move


def drop_attrs(*names: str) -> Callable[[OnnxCall], None]:
    """A `before` function: attributes of older opsets that mean nothing any more (`consumed_inputs`)."""

    def drop(call: OnnxCall) -> None:
        for name in names:
            call.attrs.pop(name, None)

    return drop


def dtype_attrs(*names: str) -> Callable[[OnnxCall], None]:
    """An `adapt` function: attributes that hold ONNX's number of an element type become a DType."""

    def convert(call: OnnxCall) -> None:
        for name in names:
            code = call.attrs.get(name)
            if code is not None and not isinstance(code, DType):
                if code not in ONNX_DTYPES:
                    raise ValueError(f"{name} = {code} is no element type")
                call.attrs[name] = ONNX_DTYPES[code]

    return convert


Infer = Callable[[InferContext], "Type | Sequence[Type | None]"]


@dataclass(frozen=True, eq=False)
class OpDef:
    """An operator. Equality is identity: there is one record for each name."""

    name: str
    reference: Callable[..., Any] | None
    infer: Infer
    operands: tuple[Operand, ...]
    attrs: Mapping[str, Attr]
    doc: str = ""
    family: str = ""
    onnx: tuple[Onnx, ...] = ()
    regions: tuple[str, ...] = ()
    traits: frozenset[str] = frozenset()
    results: int | None = 1  # how many; None where the node says it
    scalar: Callable[..., Any] | None = None  # elementwise: the expression over scalar.Expr
    reduction: Any = None
    dims: Callable[[InferContext], Any] | None = None  # the known contents of integer results, for shape arithmetic
    examples: Callable[[], Sequence[Example]] | None = None
    tolerance: tuple[float, float] | None = None  # (rtol, atol) against the ONNX reference; None: by dtype

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def operand_name(self, i: int) -> str:
        last = self.operands[-1] if self.operands else None
        if i < len(self.operands) and not self.operands[i].variadic:
            return self.operands[i].name
        return f"{last.name}[{i - len(self.operands) + 1}]" if last is not None and last.variadic else str(i)

    def strip_defaults(self, attrs: Mapping[str, Any]) -> dict[str, Any]:
        """`attrs` without those that equal their default, in the order of their names."""
        if not attrs:
            return {}
        return {k: attrs[k] for k in sorted(attrs) if not (k in self.attrs and _same(attrs[k], self.attrs[k].default))}

    def has(self, trait: str) -> bool:
        return trait in self.traits

    @property
    def is_elementwise(self) -> bool:
        return self.scalar is not None


def _same(a: Any, b: Any) -> bool:
    """Whether two attribute values print alike: of one type, and -0.0 is not 0.0."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return (
            isinstance(a, np.ndarray)
            and isinstance(b, np.ndarray)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and a.tobytes() == b.tobytes()
        )
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and (repr(a) == repr(b) if isinstance(a, float) else a == b)


@dataclass(frozen=True, eq=False)
class Example:
    """One tested use of an operator: operands (None where left out), attributes, and how many results are asked for."""

    operands: tuple
    attrs: Mapping[str, Any] = field(default_factory=dict)
    results: int = 1
    name: str = ""


def ex(*operands: Any, results: int = 1, name: str = "", **attrs: Any) -> Example:
    """An Example written shortly: operands by position, attributes by keyword."""
    return Example(
        tuple(None if x is None else x if isinstance(x, list) else np.asarray(x) for x in operands), attrs, results, name
    )


class Registry:
    """The operators by name. There is one, `OPS`; users add to it through `graphmill.op`."""

    def __init__(self) -> None:
        self._ops: dict[str, OpDef] = {}
        self._onnx: dict[tuple[str, str], list[tuple[Onnx, OpDef]]] = {}
        # Asked in turn for an operator that nobody registered; what they make is kept (frontends offer onnx.reference's so).
        self.resolvers: list[Callable[[str], OpDef | None]] = []

    def register(self, d: OpDef) -> OpDef:
        if d.name in self._ops:
            raise IRError(f"an operator named {d.name} is registered already")
        self._ops[d.name] = d
        for form in d.onnx:
            self._onnx.setdefault((form.domain, form.op_type), []).append((form, d))
        return d

    def __getitem__(self, name: str) -> OpDef:
        d = self.get(name)
        if d is None:
            raise IRError(f"there is no operator named {name!r}; `graphmill ops` lists them")
        return d

    def get(self, name: str) -> OpDef | None:
        if name not in self._ops:
            for resolve in self.resolvers:
                d = resolve(name)
                if d is not None:
                    self._ops[name] = d
                    break
        return self._ops.get(name)

    def __contains__(self, name: str) -> bool:
        return name in self._ops

    def __iter__(self):
        return iter(sorted(self._ops))

    def by_onnx(self, domain: str, op_type: str) -> tuple[Onnx, OpDef] | None:
        """The operator that ONNX calls `op_type`, and how it is spelled there."""
        found = self._onnx.get((domain, op_type))
        return found[0] if found else None

    def unregister(self, name: str) -> None:
        """Takes a user's operator out again (tests need it)."""
        d = self._ops.pop(name)
        for form in d.onnx:
            self._onnx[form.domain, form.op_type] = [p for p in self._onnx[form.domain, form.op_type] if p[1] is not d]


OPS = Registry()


def _signature(fn: Callable, dtypes: Mapping[str, Any], regions: Sequence[str]) -> tuple[tuple[Operand, ...], dict[str, Attr]]:
    operands, attrs = [], {}
    for p in inspect.signature(fn).parameters.values():
        if p.kind is p.KEYWORD_ONLY:
            if p.name not in regions and p.name != "budget":  # what is left of the run's limits is no attribute
                attrs[p.name] = Attr(REQUIRED if p.default is p.empty else p.default)
        elif p.kind is p.VAR_POSITIONAL:
            operands.append(Operand(p.name, variadic=True, dtypes=frozenset(dtypes.get(p.name, ANY))))
        else:
            operands.append(Operand(p.name, p.default is None, dtypes=frozenset(dtypes.get(p.name, ANY))))
    return tuple(operands), attrs


def _forms(onnx: str | Onnx | Sequence[str | Onnx] | None) -> tuple[Onnx, ...]:
    if onnx is None:
        return ()
    items = (onnx,) if isinstance(onnx, (str, Onnx)) else tuple(onnx)
    return tuple(Onnx(o) if isinstance(o, str) else o for o in items)


def op(name: str, *, infer: Infer, onnx: str | Onnx | Sequence[str | Onnx] | None = None, dtypes: Mapping[str, Any] | None = None,
       regions: Sequence[str] = (), traits: Sequence[str] = (), results: int | None = 1,
       dims: Callable[[InferContext], Any] | None = None, reduction: Any = None,
       examples: Callable[[], Sequence[Example]] | None = None,
       tolerance: tuple[float, float] | None = None, registry: Registry | None = None) -> Callable[[Callable], OpDef]:  # fmt: skip
    """Declares an operator whose reference is the decorated function (see the module's text).

    `dtypes` maps operand names to the element types they take; `dims` computes known contents of integer results;
    `traits` are free words that passes ask for: view, reduction, anchor, random, host, control, opaque, repacking.
    """

    def make(fn: Callable) -> OpDef:
        operands, attrs = _signature(fn, dtypes or {}, regions)
        d = OpDef(name, fn, infer, operands, attrs, inspect.getdoc(fn) or "", fn.__module__.rpartition(".")[2], _forms(onnx),
                  tuple(regions), frozenset(traits), results, None, reduction, dims, examples, tolerance)  # fmt: skip
        return (OPS if registry is None else registry).register(d)

    return make


def elementwise(name: str, *, onnx: str | Onnx | Sequence[str | Onnx] | None = None, dtypes: Any = ANY, result: Any = None,
                reference: Callable[..., Any] | None = None, examples: Callable[[], Sequence[Example]] | None = None,
                tolerance: tuple[float, float] | None = None, traits: Sequence[str] = (),
                registry: Registry | None = None) -> Callable[[Callable], OpDef]:  # fmt: skip
    """Declares an elementwise operator from a function over `scalar.Expr` (one parameter an operand, keyword-only attributes).

    `dtypes` is what all operands take, or a mapping by operand name; operands broadcast by numpy's rules. The result's element
    type is that of the expression. `reference` replaces the numpy evaluation of the expression where numpy knows better.
    """
    from . import scalar, scalar_dims, scalar_numpy

    def make(fn: Callable) -> OpDef:
        names = [p.name for p in inspect.signature(fn).parameters.values() if p.kind is not p.KEYWORD_ONLY]
        by_name = dtypes if isinstance(dtypes, Mapping) else dict.fromkeys(names, dtypes)
        operands, attrs = _signature(fn, by_name, ())
        ref = reference or scalar_numpy.numpy_reference(fn)
        d = OpDef(name, ref, scalar.infer_elementwise(fn), operands, attrs, inspect.getdoc(fn) or "",
                  fn.__module__.rpartition(".")[2], _forms(onnx), (), frozenset({"elementwise", *traits}), 1, fn, None,
                  scalar_dims.elementwise_dims(fn), examples, tolerance)  # fmt: skip
        return (OPS if registry is None else registry).register(d)

    return make
