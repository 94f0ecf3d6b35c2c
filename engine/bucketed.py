"""Executable whose runs are padded to buckets (`buckets.py`), so that many sizes meet few signatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.errors import PaddingError
from ..ir.limits import deadline, interrupted_by
from ..ir.symbols import DimLike, evaluate
from ..ir.types import BF16, F16, TensorType
from .agreement import disagreement, tolerance
from .binding import bind_dims, read_inputs
from .buckets import Buckets, trimmed
from .device import fetch
from .executor import Executable
from .growth import Growth, Shape
from .placed import Placed

MOST_WAYS = 4096  # signatures whose padding is remembered

Trim = tuple[tuple[slice, ...], list[tuple[int, int]]]  # an output's true elements, on the host; axes and lengths, for a device


@dataclass(frozen=True)
class Way:
    """How inputs of one signature are padded. `growths` of inputs, `trims` of outputs by name; `bucket`: the signature that is run;
    `added`: by how much symbols grow that are not proven, by name."""

    growths: Mapping[str, Growth]
    trims: Mapping[str, Trim]
    bucket: tuple[Shape, ...]
    added: Mapping[str, int]


class Bucketed(Executable):
    """An Executable that pads. `fixed` takes sizes as they are."""

    def __init__(self, *args: Any, buckets: Buckets):
        super().__init__(*args)
        self.buckets, self._trimmed = buckets, trimmed(self.module, buckets)
        tensors = [(v.name, v.type) for v in self.module.main.inputs if isinstance(v.type, TensorType)]
        self._types = [(name, t.dtype.np) for name, t in tensors]
        # Axes that may grow, and whether by the caller's value. Those by copies of the last row come last, and copy values, too.
        self._axes = {name: sorted(((a, buckets.checked(d)) for a, d in enumerate(t.shape or ()) if buckets.concerns(d)),
                                   key=lambda x: not x[1]) for name, t in tensors}  # fmt: skip
        self._ways: dict[tuple, Way] = {}
        self._trusted: dict[tuple[Shape, ...], dict[str, int]] = {}  # by how much padding was checked, for each bucket

    def run(self, inputs: Mapping[str, Any], *, out: Mapping[str, Any] | None = None, timeout: float | None = None,
            on_device: bool = False, stream: Any = None) -> dict[str, Any]:  # fmt: skip
        """`Executable.run`, with inputs padded to buckets and outputs trimmed. Raises PaddingError where padding by values changes
        outputs."""
        if timeout is not None:
            with interrupted_by(deadline(timeout)):
                return self.run(inputs, out=out, on_device=on_device, stream=stream)
        if stream is not None:  # what comes before and after the run is in the stream's order, too
            with self.device.beside(stream):
                return self._run(inputs, out, on_device, stream)
        return self._run(inputs, out, on_device, None)

    def _run(self, inputs: Mapping[str, Any], out: Mapping[str, Any] | None, on_device: bool, stream: Any) -> dict[str, Any]:
        values, ordered = self._plain(inputs), stream is not None
        if values is None:
            values = read_inputs(self.module, inputs, self.device, ordered)
        way = self._way(values)
        if not way.growths:
            return super().run(inputs, out=out, on_device=on_device, stream=stream)
        outputs = None if out is None else self._places(out, values, on_device, ordered)
        there = on_device or isinstance(outputs, Placed)
        results = super().run(self.padded(values), on_device=there, stream=stream)
        results = {name: self._trim(x, way.trims[name]) if name in way.trims else x for name, x in results.items()}
        if self._doubtful(way):
            self._check(values, results, way)
        results = results if outputs is None else outputs.finish(results)
        if not ordered:
            self.device.settle([*values.values(), *(outputs.arrays if isinstance(outputs, Placed) else ())])
        return results

    def _plain(self, inputs: Any) -> dict[str, Any] | None:
        """The inputs where they are what a run reads as it is: arrays of numpy's, of the model's types."""
        if type(inputs) is not dict or len(inputs) != len(self._types):
            return None
        for name, dtype in self._types:
            x = inputs.get(name)
            if type(x) is not np.ndarray or x.dtype is not dtype:
                return None
        return inputs

    def _way(self, values: Mapping[str, Any]) -> Way:
        """How such inputs are padded, by their shapes."""
        signature = tuple([getattr(values[name], "shape", None) for name, _ in self._types])
        way = self._ways.get(signature)
        if way is None:
            if len(self._ways) >= MOST_WAYS:
                self._ways = {}
            way = self._ways[signature] = self._find_way({**values})
        return way

    def _find_way(self, values: dict[str, Any]) -> Way:
        """Raises InputError for shapes that contradict the declared ones or each other."""
        checked = {v.name: v for v in self.module.main.inputs}
        for name in self._axes:
            rank = checked[name].tensor.rank
            if rank is not None and values[name].ndim != rank:
                values = read_inputs(self.module, values, self.device)  # which says what is wrong
        _, true = bind_dims(self.module, values)
        grown = {name: self.buckets.padded(name, n) for name, n in true.items()}
        shapes = {}
        for name, axes in self._axes.items():
            dims, shape = checked[name].tensor.shape, list(values[name].shape)
            for a, _ in axes:
                assert dims is not None
                shape[a] = evaluate(dims[a], grown)
            shapes[name] = tuple(shape)
        added = {s: grown[s] - true[s] for s in self.buckets.sizes if s not in self.buckets.proven and grown[s] > true[s]}
        growths = {name: self._growth(name, values[name].shape, to) for name, to in shapes.items() if to != values[name].shape}
        trims = {name: t for name, axes in self._trimmed.items() if (t := _trim(axes, true, grown)) is not None}
        return Way(growths, trims, tuple(shapes.values()), added)

    def _growth(self, name: str, shape: Shape, to: Shape) -> Growth:
        fills = [(axis, valued) for axis, valued in self._axes[name] if to[axis] > shape[axis]]
        return Growth(shape, to, fills, self.buckets.pad.get(name))

    def padded(self, values: dict[str, Any]) -> dict[str, Any]:
        """The inputs in the sizes of their bucket, where they lie."""
        out = dict(values)
        for name, growth in self._way(values).growths.items():
            x = values[name]
            on_host = isinstance(x, np.ndarray)
            out[name] = growth.on_host(x) if on_host else growth.on_device(x, self.device)  # type: ignore[arg-type]
        return out

    def _trim(self, x: Any, to: Trim) -> Any:
        """The true elements of an output, in memory of their own."""
        if isinstance(x, np.ndarray):
            return x[to[0]].copy()
        for axis, n in to[1]:
            x = self.device.trim(x, axis, n)
        return x

    # ---- what is not proven

    def _doubtful(self, way: Way) -> bool:
        """Whether the bucket was checked with less than half as much padding as now, or not at all."""
        seen = self._trusted.get(way.bucket, {})
        return any(n >= 2 * seen.get(name, 0) for name, n in way.added.items())

    def _check(self, values: Mapping[str, Any], results: Mapping[str, Any], way: Way) -> None:
        """Runs without padding, and trusts the bucket, with so much padding, if the outputs are the same."""
        for name, want in super().run(values).items():
            why = self._difference(name, fetch(results[name]), want)
            if why:
                added = ", ".join(f"${s} by {n}" for s, n in way.added.items())
                raise PaddingError(
                    f"the output {name} depends on what is padded ({added}): {why}. The model does not mask it with these values: "
                    f"give other ones as `pad` (masks of 1 and 0 want 0), or leave {', '.join(way.added)} out of the buckets"
                )
        seen = self._trusted.get(way.bucket, {})
        self._trusted[way.bucket] = {name: max(n, seen.get(name, 0)) for name, n in (seen | dict(way.added)).items()}

    def _difference(self, name: str, got: Any, want: Any) -> str:
        """What is wrong with an output, "" where it is that without padding."""
        if np.shape(got) != np.shape(want):
            return f"its shape is {list(np.shape(got))} and {list(np.shape(want))} without padding"
        dtype = self._named[name].tensor.dtype
        if not dtype.is_float:
            same = np.array_equal(got, want)
            return "" if same else f"{int(np.sum(np.asarray(got != want)))} of {np.size(want)} elements are others"
        precision = self.options.precision
        within = max(tolerance(t, precision) for t in (dtype, {"fp16": F16, "bf16": BF16}.get(precision, dtype)))
        wide = np.float64 if dtype.bits == 64 else np.float32
        far, about = disagreement(np.asarray(got, wide), np.asarray(want, wide), within)
        return (
            f"{far.size} of {want.size} elements are off by up to {far.max():.3g}, values are of about {about:.3g}"
            if far.size
            else ""
        )


def _trim(axes: Sequence[tuple[int, DimLike]], true: Mapping[str, int], grown: Mapping[str, int]) -> Trim | None:
    """How an output is trimmed that has such sizes along such axes; None where it has grown along none."""
    lengths = {a: evaluate(d, true) for a, d in axes if evaluate(d, true) != evaluate(d, grown)}
    if not lengths:
        return None
    return tuple([slice(lengths.get(a)) for a in range(max(lengths) + 1)]), list(lengths.items())
