"""The caller's arrays as the place of outputs (`Executable.run(..., out=)`).

What kernels can write to directly they get; into the rest the output is copied when all is computed, so that an array which shares
memory with an input is right too. What cannot hold its output at all is refused before anything is computed, or, where only
the run tells a size, before anything is written to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from ..ir.core import Value
from ..ir.errors import InputError
from ..ir.types import STR, TensorType
from .foreign import as_numpy

WRITABLE = 0x501  # C-contiguous, aligned and writeable, among the bits of `ndarray.flags.num`
_MOST_WORK = 1 << 16  # steps of a search for a shared element


class Outputs:
    """The arrays of one run: `direct` are those that kernels may write to, by name."""

    def __init__(self, given: Mapping[str, Any], declared: Mapping[str, Value], inputs: Iterable[Any]):
        """`given` by the names of outputs, of which `declared` are all; `inputs` are what the run reads.

        Raises InputError for a name that there is not, and for an array that is no place for its output.
        """
        check_names(given, declared)
        self._given, self._declared = given, declared
        self._arrays = {name: _place(name, x, declared[name]) for name, x in given.items()}
        self._keep_apart()
        read = [a for x in inputs for a in (x if isinstance(x, list) else [x]) if isinstance(a, np.ndarray)]
        self.direct = {
            name: a
            for name, a in self._arrays.items()
            if a.flags.num & WRITABLE == WRITABLE and a.dtype != object and not any(np.may_share_memory(a, r) for r in read)
        }

    def _keep_apart(self) -> None:
        arrays = list(self._arrays.items())
        for i, (name, a) in enumerate(arrays):
            for other, b in arrays[:i]:
                if np.may_share_memory(a, b) and _overlap(a, b):
                    raise InputError(f"out: the arrays of {other} and {name} share memory; give each output memory of its own")

    def places(self) -> dict[Value, np.ndarray]:
        """The arrays that kernels may write to, of the outputs that are row-major in memory."""
        found = [(self._declared[name], a) for name, a in self.direct.items()]
        return {v: a for v, a in found if v.tensor.layout is None}

    def finish(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs of a run that is over: what the caller gave, filled, in the place of what was computed."""
        for name, a in self._arrays.items():
            if np.shape(results[name]) != a.shape:
                found, wanted = list(a.shape), list(np.shape(results[name]))
                raise InputError(f"out: the array of {name} has shape {found}, expected {wanted} ({self._declared[name].type})")
        todo = {n: results[n] for n, a in self._arrays.items() if not _same_memory(a, results[n])}
        for name, r in todo.items():  # a result that is a view of an input, or of another output, must not change under way
            if any(np.may_share_memory(r, a) for a in self._arrays.values()):
                todo[name] = r.copy()
        for name, r in todo.items():
            np.copyto(self._arrays[name], r)
        return {name: self._given.get(name, x) for name, x in results.items()}


def check_names(given: Mapping[str, Any], declared: Mapping[str, Value]) -> None:
    """Raises InputError for what is no mapping, and for a name that there is not."""
    if not isinstance(given, Mapping):
        raise InputError(f"out is a {type(given).__name__}, expected a mapping from names of outputs to arrays")
    unknown = [n for n in given if n not in declared]
    if unknown:
        raise InputError(f"out: no output is named {unknown}; the model has {', '.join(declared)}")


def check_type(name: str, a: Any, v: Value) -> TensorType:
    """The type of the output, which an array can hold as far as that says. Raises InputError."""
    t = v.type
    if not isinstance(t, TensorType):
        raise InputError(f"out: the output {name} is {t}, and only tensors can be written into an array; leave it out")
    if a.dtype != t.dtype.np and not (t.dtype is STR and a.dtype == object):
        raise InputError(f"out: the array of {name} has element type {a.dtype}, expected {t.dtype.np} ({t})")
    static = t.shape is None or (len(t.shape) == a.ndim and all(d in (n, None) for d, n in zip(_known(t), a.shape)))
    if not static:
        raise InputError(f"out: the array of {name} has shape {list(a.shape)}, expected {t}")
    return t


def _place(name: str, x: Any, v: Value) -> np.ndarray:
    """The caller's memory as an array that can hold the output, as far as its type says."""
    a = as_numpy(x, f"out: the array of {name}")
    if a is None:
        raise InputError(f"out: what is given for {name} is a {type(x).__name__}, expected an array of {v.type}")
    t = check_type(name, a, v)
    if not a.flags.writeable:
        raise InputError(f"out: the array of {name} is read-only, expected one that can be written to")
    if _folded(a):
        raise InputError(
            f"out: elements of the array of {name} may lie in the same place (strides {a.strides}); hand in a plain one"
        )
    return a if t.dtype is STR or a.dtype is t.dtype.np else a.view(t.dtype.np)


def _known(t: TensorType) -> list[int | None]:
    return [d if isinstance(d, int) else None for d in t.shape or ()]


def _folded(a: np.ndarray) -> bool:
    """Whether two elements of an array may lie in the same place: unless each axis steps over all that shorter steps reach."""
    reach = a.itemsize
    for step, n in sorted((abs(s), n) for s, n in zip(a.strides, a.shape) if n != 1):
        if step < reach and a.size:
            return True
        reach += step * (n - 1)
    return False


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    try:
        return np.shares_memory(a, b, max_work=_MOST_WORK)  # type: ignore[arg-type]  # any number, numpy says
    except np.exceptions.TooHardError:
        return True


def _same_memory(a: np.ndarray, b: Any) -> bool:
    """Whether two arrays of one shape are the same memory in the same order."""
    return isinstance(b, np.ndarray) and a.strides == b.strides and a.ctypes.data == b.ctypes.data


def owned(
    results: dict[str, Any], given: Iterable[np.ndarray], values: Mapping[str, Value], placed: Collection[str] = ()
) -> dict[str, Any]:
    """The results, of which those are copies that would share memory with an input, a constant or another output; those that are
    `placed` in memory of the caller's come first."""
    seen = {_root(a) for a in given}
    out = {}
    for name in [*placed, *(n for n in results if n not in placed)]:
        x = results[name]
        if isinstance(x, list):
            x = [e.copy() if isinstance(e, np.ndarray) else e for e in x]
        if isinstance(x, np.ndarray):
            if values[name].is_const or _root(x) in seen or not x.flags.writeable or not x.flags.c_contiguous:
                x = np.array(x, order="C")
            seen.add(_root(x))
        out[name] = x
    return out


def _root(a: np.ndarray) -> int:
    while isinstance(a.base, np.ndarray):
        a = a.base
    return id(a)
