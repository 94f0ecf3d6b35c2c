"""graphmill compile: a model as one file that loads without a compiler."""

from __future__ import annotations

import os
from typing import Any

import click

from .common import (
    Verb,
    clean,
    compiling_options,
    model_argument,
    print_json,
    progress,
    told_buckets,
)


@click.command(cls=Verb, name="compile")
@model_argument
@click.option("--output", "-o", required=True, type=click.Path(dir_okay=False), metavar="FILE.gmill", help="The artifact to write.")
@click.option("--threads", type=click.IntRange(1), help="Processes that compile; as many as the machine grants, if not given.")
@click.option("--no-packed", is_flag=True, help="Leave packed constants out: half the size, slower to load.")
@click.option("--strict-native", is_flag=True, help="Fail where a node has no native kernel.")
@click.option("--verbose", "-v", is_flag=True, help="Say how every node is served, and what was not in the cache, and why.")
@compiling_options
def compile_(model: str, output: str, threads: int | None, no_packed: bool, strict_native: bool, verbose: bool,
             how: dict[str, Any], as_json: bool) -> None:  # fmt: skip
    """Compile MODEL and write it to FILE.gmill, which `graphmill run` and graphmill.load take."""
    from ..engine.compiler import compile

    if not output.endswith(".gmill"):
        raise click.BadParameter(f"{output!r}: expected a name that ends in .gmill", param_hint="--output")
    with progress("compiling") as say:
        exe = compile(model, threads=threads, strict_native=strict_native, observe=lambda p, m: say(p.name), tell=say, **how)
        say("writing")
        exe.save(output, packed=not no_packed)
    r, nbytes = exe.report, os.path.getsize(output)
    if as_json:
        print_json({"ok": True, "output": output, "bytes": nbytes, "kernels": r.kernels, "compiled": r.compiled, "misses": r.misses,
                    "counts": r.counts(), "seconds": r.seconds} | told_buckets(exe))  # fmt: skip
        return
    if verbose:
        click.echo(clean(r.summary()))
    click.echo(clean(f"{output}: {nbytes / (1 << 20):.1f} MiB, {r.kernels} kernels, {r.compiled} compiled now"))
