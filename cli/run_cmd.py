"""graphmill run: compile a model and run it once."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from .common import (
    LONGEST,
    Verb,
    clean,
    compiling_given,
    compiling_options,
    load_artifact,
    model_argument,
    print_json,
    progress,
    told_buckets,
)

if TYPE_CHECKING:
    from ..ir.core import Module


@click.command(cls=Verb)
@model_argument
@click.option("--input", "-i", "inputs", multiple=True, metavar="NAME=FILE.npy", help="An input from a .npy file (repeatable).")
@click.option("--inputs", "archive", type=click.Path(exists=True, dir_okay=False), help="Inputs from an .npz archive, by name.")
@click.option("--random", "seed", type=int, help="Fill the inputs that are not given with random numbers from this seed.")
@click.option("--save", type=click.Path(dir_okay=False), help="Write the outputs that are tensors to an .npz archive.")
@click.option("--threads", type=click.IntRange(1), help="As many as the machine grants, if not given.")
@click.option("--strict-native", is_flag=True, help="Fail where a node has no native kernel.")
@click.option("--trust", is_flag=True, help="Run the machine code that MODEL.gmill brings along.")
@click.option("--verbose", "-v", is_flag=True, help="Say how every node was served.")
@compiling_options
def run(model: str, inputs: tuple[str, ...], archive: str | None, seed: int | None, save: str | None, threads: int | None,
        strict_native: bool, trust: bool, verbose: bool, how: dict[str, Any], as_json: bool) -> None:  # fmt: skip
    """Compile MODEL, or load MODEL.gmill, and run it once."""
    given, fixed = read_inputs(inputs, archive), how["shapes"]
    with progress("compiling") as say:
        if model.endswith(".gmill"):
            options = compiling_given() | {"set": False, "strict_native": strict_native}  # --set says how large random inputs are
            exe = load_artifact(model, threads, trust, **options)
        else:
            from ..engine.compiler import compile

            exe = compile(model, threads=threads, strict_native=strict_native, observe=lambda p, m: say(p.name), tell=say, **how)
    if seed is not None:
        given = random_inputs(exe.module, seed, fixed) | given
    with progress("running"):
        out = exe.run(given)
    if save:
        _save(save, out)
    served = {
        "counts": exe.report.counts(),
        "by_reference": [{"node": s.node, "op": s.op, "reason": s.reason} for s in exe.report.not_native()],
    }
    if as_json:
        print_json({"ok": True, "outputs": out, "served": served, "seconds": exe.report.seconds} | told_buckets(exe))
        return
    if verbose:
        click.echo(clean(exe.report.summary()))
    for name, value in out.items():
        click.echo(clean(f"{name}: {exe.outputs[name]} {_describe(value)}", LONGEST))
        click.echo(clean(_text(value), LONGEST))


def _describe(value: Any) -> str:
    return f"shape {list(value.shape)}" if hasattr(value, "shape") else type(value).__name__


def _text(value: Any) -> str:
    import numpy as np

    if isinstance(value, np.ndarray):
        return np.array2string(value, threshold=20, precision=5)
    return repr(value[:20] if isinstance(value, list) else value)


def _save(path: str, out: Mapping[str, Any]) -> None:
    """Writes what numpy can store without pickling: strings as text arrays, lists and maps not at all."""
    import numpy as np

    arrays = {k: a.astype(str) if a.dtype == object else a for k, a in out.items() if isinstance(a, np.ndarray)}
    with open(path, "wb") as f:
        np.savez(f, **arrays)  # type: ignore[arg-type]


def read_inputs(inputs: tuple[str, ...], archive: str | None) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if archive:
        given.update(_loaded(archive, "--inputs", lambda z: {k: z[k] for k in z.files}))
    for item in inputs:
        name, eq, path = item.rpartition("=")
        if not eq:
            raise click.BadParameter(f"{item!r}: expected NAME=FILE.npy", param_hint="--input")
        given[name] = _loaded(path, "--input", lambda a: a)
    return given


def _loaded(path: str, option: str, read: Callable[[Any], Any]) -> Any:
    """What numpy reads from a file, never by unpickling."""
    import numpy as np

    wanted = ".npz" if option == "--inputs" else ".npy"
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray) is (wanted == ".npz"):
            raise ValueError("it is the other of .npy and .npz")
        return read(found)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
        raise click.BadParameter(
            f"{path}: {e}; expected numpy's {wanted} format without pickled objects", param_hint=option
        ) from None


def random_inputs(module: Module, seed: int, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Uniform numbers in [-1, 1) (0 or 1 for integers) for every input that is a tensor of known rank; a symbolic dim is 1 (or its
    lower bound) where `sizes` does not say. Raises LimitError for an input larger than the default limit."""
    import numpy as np

    from ..ir.limits import DEFAULT_LIMITS, Budget
    from ..ir.symbols import evaluate, symbols_of
    from ..ir.types import TensorType

    rng, out = np.random.default_rng(seed), {}
    for v in module.main.inputs:
        if not isinstance(v.type, TensorType) or v.type.shape is None or v.type.dtype.kind == "string":
            continue
        values = {s.name: sizes.get(s.name, max(1, s.lo)) for d in v.type.shape for s in symbols_of(d)}
        shape, t = [evaluate(d, values) for d in v.type.shape], v.type.dtype
        Budget(DEFAULT_LIMITS).check_bytes(f"input {v.name}", 8 * int(np.prod(shape, dtype=object)))
        out[v.name] = (rng.uniform(-1, 1, shape) if t.is_float else rng.integers(0, 2, shape)).astype(t.np)
    return out
