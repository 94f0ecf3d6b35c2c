"""graphmill run: compile a model and run it once."""

from __future__ import annotations

from typing import Any

import click
import numpy as np

from .common import json_option, model_argument, parse_sizes, print_json, progress, set_option


@click.command()
@model_argument
@click.option("--input", "-i", "inputs", multiple=True, metavar="NAME=FILE.npy", help="An input from a .npy file (repeatable).")
@click.option("--inputs", "archive", type=click.Path(exists=True), help="Inputs from an .npz archive, by name.")
@click.option("--random", "seed", type=int, help="Fill the inputs that are not given with random numbers from this seed.")
@click.option("--save", type=click.Path(), help="Write the outputs to an .npz archive.")
@click.option("--target", type=click.Choice(["cpu", "reference"]), default="cpu", show_default=True)
@click.option("--threads", type=int, help="As many as the machine grants, if not given.")
@click.option("--strict-native", is_flag=True, help="Fail where a node has no native kernel.")
@click.option("--verbose", "-v", is_flag=True, help="Say how every node was served.")
@set_option
@json_option
def run(model: str, inputs: tuple[str, ...], archive: str | None, seed: int | None, save: str | None, target: str,
        threads: int | None, strict_native: bool, verbose: bool, sizes: tuple[str, ...], as_json: bool) -> None:  # fmt: skip
    """Compile MODEL and run it once."""
    from ..engine.compiler import compile

    with progress("compiling") as say:
        exe = compile(model, target, threads=threads, strict_native=strict_native, shapes=parse_sizes(sizes),
                      observe=lambda p, m: say(p.name))  # fmt: skip
    given = _read_inputs(inputs, archive)
    if seed is not None:
        given = random_inputs(exe.module, seed, parse_sizes(sizes)) | given
    out = exe.run(given)
    if save:
        np.savez(save, **{k: np.asarray(v) for k, v in out.items()})  # type: ignore[arg-type]
    if as_json:
        print_json({"outputs": out, "served": exe.report.counts(), "seconds": exe.report.seconds})
        return
    if verbose:
        click.echo(exe.report.summary())
    for name, value in out.items():
        click.echo(f"{name}: {exe.outputs[name]} {_describe(value)}")
        click.echo(np.array2string(value, threshold=20, precision=5) if isinstance(value, np.ndarray) else repr(value)[:2000])


def _describe(value: Any) -> str:
    return f"shape {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


def _read_inputs(inputs: tuple[str, ...], archive: str | None) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if archive:
        with np.load(archive, allow_pickle=False) as z:
            given.update({k: z[k] for k in z.files})
    for item in inputs:
        name, eq, path = item.rpartition("=")
        if not eq:
            raise click.BadParameter(f"{item!r}: expected NAME=FILE.npy", param_hint="--input")
        given[name] = np.load(path, allow_pickle=False)
    return given


def random_inputs(module: Any, seed: int, sizes: dict[str, int]) -> dict[str, Any]:
    """Uniform numbers in [-1, 1) (0 or 1 for integers) for every input; a symbolic dim is 1 where `sizes` does not say."""
    from ..ir.symbols import evaluate, symbols_of
    from ..ir.types import TensorType

    rng, out = np.random.default_rng(seed), {}
    for v in module.main.inputs:
        if not isinstance(v.type, TensorType) or v.type.shape is None or v.type.dtype.kind == "string":
            continue
        values = {s.name: sizes.get(s.name, max(1, s.lo)) for d in v.type.shape for s in symbols_of(d)}
        shape = [evaluate(d, values) for d in v.type.shape]
        t = v.type.dtype
        out[v.name] = (rng.uniform(-1, 1, shape) if t.is_float else rng.integers(0, 2, shape)).astype(t.np)
    return out
