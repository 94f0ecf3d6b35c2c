"""The types that a model declares, and the symbols that its dims become."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from ...ir.core import Module
from ...ir.errors import HostileModelError, InputError
from ...ir.symbols import Dim, DimLike
from ...ir.types import ONNX_DTYPES, MapType, OptionalType, SequenceType, TensorType, Type
from .problems import shown, text
from .tensors import checked_dims, element_type

_NAMELESS = frozenset({"", "?", "-1", "None"})  # what exporters write for a dim of which they know nothing; each stands for itself
_DEEPEST = 16  # sequences of optionals of sequences of ...


class Symbols:
    """The dims of the main graph's inputs. A dim_param is a symbol of that name with the range [0, inf), or the size that
    `fixed` gives it; a dim that says nothing (or "?", or a negative size, as some exporters write) is named `<input>.<axis>`."""

    def __init__(self, module: Module, inputs: Iterable[onnx.ValueInfoProto], fixed: Mapping[str, int] | None):
        self._module, self._fixed, self._used = module, dict(fixed or {}), set[str]()
        for name, size in self._fixed.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 0:
                raise InputError(f"shapes[{name!r}] = {size!r}; expected a size >= 0")
        # Names that the model gives come first, so that a derived name never becomes one of them.
        self._named: dict[str, DimLike] = {}
        for v in inputs:
            for d in v.type.tensor_type.shape.dim:
                name = text(d.dim_param)
                if name not in _NAMELESS and name not in self._named:
                    self._named[name] = self._symbol(name)

    def _symbol(self, name: str) -> DimLike:
        if name in self._fixed:
            self._used.add(name)
            return self._fixed[name]
        return Dim.of(self._module.fresh_symbol(name))

    def dim(self, d: onnx.TensorShapeProto.Dimension, owner: str) -> DimLike:
        """The dim of axis `owner` ("<input>.<axis>") of a graph input."""
        if d.HasField("dim_param") and text(d.dim_param) not in _NAMELESS:
            return self._named[text(d.dim_param)]
        if d.HasField("dim_value") and d.dim_value >= 0:
            return d.dim_value
        return self._symbol(owner)

    def fresh(self, d: onnx.TensorShapeProto.Dimension, owner: str) -> DimLike:
        """The dim of a region's input: a name there may stand for another size in each run of the region."""
        if d.HasField("dim_value") and d.dim_value >= 0:
            return d.dim_value
        return Dim.of(self._module.fresh_symbol(owner))

    def check_fixed(self) -> None:
        """Raises InputError for a size given to a name that no input has."""
        unknown = sorted(set(self._fixed) - self._used)
        if unknown:
            known = ", ".join(sorted(shown(s) for s in {*self._module.symbols, *self._used})[:20]) or "no symbolic dims"
            raise InputError(f"shapes names {', '.join(map(shown, unknown))}; the model has {known}")


def input_type(t: onnx.TypeProto, name: str, dim, depth: int = 0) -> Type | None:
    """The IR type of `t`, None where it says nothing. `dim(proto, owner)` makes each dim of a tensor that is no element of a
    sequence. Raises HostileModelError for unknown element types and impossible dims."""
    kind = t.WhichOneof("value")
    if depth > _DEEPEST:
        raise HostileModelError(f"the type of {shown(name)} is nested deeper than {_DEEPEST}")
    if kind == "tensor_type":
        tensor = t.tensor_type
        dtype = element_type(tensor.elem_type)
        if not tensor.HasField("shape"):
            return TensorType(dtype, None)
        sizes = [d.dim_value for d in tensor.shape.dim if d.dim_value > 0]
        checked_dims(sizes)
        return TensorType(dtype, tuple(dim(d, f"{name}.{i}") for i, d in enumerate(tensor.shape.dim)))
    if kind == "sequence_type":
        elem = input_type(t.sequence_type.elem_type, name, _static_only, depth + 1)
        return None if elem is None else SequenceType(_any_shape(elem))
    if kind == "optional_type":
        elem = input_type(t.optional_type.elem_type, name, dim, depth + 1)
        return None if elem is None else OptionalType(elem)
    if kind == "map_type":
        value = input_type(t.map_type.value_type, name, _static_only, depth + 1)
        return None if value is None else MapType(element_type(t.map_type.key_type), _any_shape(value))
    if kind == "sparse_tensor_type":
        raise HostileModelError(f"{shown(name)} is a sparse tensor at run time, which no operator takes; expected a dense one")
    return None


def _static_only(d: onnx.TensorShapeProto.Dimension, owner: str) -> int:
    return d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else -1


def _any_shape(t: Type) -> Type:
    """The elements of a sequence may differ in the dims that are not numbers, so that their shape is not known."""
    return TensorType(t.dtype, None) if isinstance(t, TensorType) and t.shape is not None and -1 in t.shape else t


def type_proto(t: Type | None, names: dict[DimLike, str] | None = None) -> onnx.TypeProto:
    """The ONNX form of a type; `names` collects the dim_param that stands for each symbolic dim."""
    out = onnx.TypeProto()
    if isinstance(t, TensorType):
        out.tensor_type.elem_type = next(code for code, d in ONNX_DTYPES.items() if d is t.dtype)
        if t.shape is not None:
            out.tensor_type.shape.SetInParent()
            for d in t.shape:
                dim = out.tensor_type.shape.dim.add()
                if isinstance(d, int):
                    dim.dim_value = d
                elif names is not None:
                    dim.dim_param = names.setdefault(d, f"d{len(names)}")
    elif isinstance(t, SequenceType):
        out.sequence_type.elem_type.CopyFrom(type_proto(t.elem, names))
    elif isinstance(t, OptionalType):
        out.optional_type.elem_type.CopyFrom(type_proto(t.elem, names))
    elif isinstance(t, MapType):
        out.map_type.key_type = next(code for code, d in ONNX_DTYPES.items() if d is t.key)
        out.map_type.value_type.CopyFrom(type_proto(t.value, names))
    return out
