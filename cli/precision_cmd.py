"""graphmill precision: what 16-bit floats cost, value by value."""

from __future__ import annotations

from dataclasses import asdict

import click

from .common import Verb, clean, json_option, keep_option, model_argument, parse_sizes, print_json, progress, set_option
from .run_cmd import random_inputs, read_inputs

MOST_ROWS = 40


@click.command(cls=Verb)
@model_argument
@click.option("--input", "-i", "inputs", multiple=True, metavar="NAME=FILE.npy", help="An input; others are random (repeatable).")
@click.option("--inputs", "archive", type=click.Path(exists=True, dir_okay=False), help="Inputs from an .npz archive, by name.")
@click.option("--precision", type=click.Choice(["fp16", "bf16"]), default="fp16", show_default=True)
@click.option("--all", "every", is_flag=True, help=f"Print every value, not only the {MOST_ROWS} with the largest errors.")
@keep_option
@set_option
@json_option
def precision(model: str, inputs: tuple[str, ...], archive: str | None, precision: str, every: bool, keep_fp32: tuple[str, ...],
              sizes: tuple[str, ...], as_json: bool) -> None:  # fmt: skip
    """Print which values of MODEL would be kept in 16 bits on CUDA, and how far each is then from f32 (computed by the operators'
    references, on given or random inputs)."""
    from ..engine.compiler import load
    from ..engine.narrowing import precision_report
    from ..engine.options import Options

    fixed = parse_sizes(sizes)
    given = random_inputs(load(model, Options(shapes=fixed)), 0, fixed) | read_inputs(inputs, archive)
    with progress("computing") as say:
        rows = precision_report(model, given, precision, keep_fp32, fixed, say)
    if as_json:
        print_json({"ok": True, "values": [asdict(r) for r in rows]})
        return
    shown = rows if every else sorted(rows, key=lambda r: -r.error)[:MOST_ROWS]
    narrow = sum(r.dtype != "f32" for r in rows)
    click.echo(f"{narrow} of {len(rows)} values in {precision}")
    for r in shown:
        click.echo(clean(f"{r.error:10.2e}  {r.dtype:5} %{r.name} ({r.op}){': ' + r.reason if r.reason else ''}"))
