"""graphmill cache: what is kept of compiled kernels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from .common import Verb, clean, json_option, print_json

if TYPE_CHECKING:
    from ..kernels.cpu.cache import Entry

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Nbytes(click.ParamType):
    """A number of bytes: `500M`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        digits, unit = (value[:-1], value[-1].upper()) if value[-1:].isalpha() else (value, "")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 16 and unit in UNITS):
            self.fail(f"{value!r}: expected a number of bytes such as 500M (K, M, G)", param, ctx)
        return int(digits) * UNITS[unit]


@click.group()
def cache() -> None:
    """Look after the folder of compiled kernels (GRAPHMILL_CACHE, else the user's cache folder)."""


@cache.command(cls=Verb, name="list")
@json_option
def list_(as_json: bool) -> None:
    """List the files: kernels, and receipts for packed constants of artifacts."""
    from ..kernels.cpu.cache import entries

    found = list(entries())
    if as_json:
        print_json([_row(e) | {"about": e.about()} for e in found])
        return
    for e in found:
        about = e.about()
        what = "damaged" if about is None else f"text {about['text'][:16]} for {about['cpu']}" if about else ""
        click.echo(clean(f"{e.key[:16]}  {e.kind:7}  {e.nbytes:9}  {_day(e.used)}  {what}".rstrip()))
    click.echo(_sum(found))


@cache.command(cls=Verb)
@json_option
def size(as_json: bool) -> None:
    """Say where the cache is and how large."""
    from ..kernels.cpu.cache import cache_dir, entries, writable

    found, folder = list(entries()), cache_dir()
    answer = {"folder": str(folder), "files": len(found), "bytes": sum(e.nbytes for e in found), "writable": writable()}
    if as_json:
        print_json(answer)
        return
    click.echo(clean(f"{folder}: {_sum(found)}{'' if answer['writable'] else ', cannot be written'}"))


@cache.command(cls=Verb)
@click.option("--keep", is_flag=True, help="Leave damaged files where they are.")
@json_option
@click.pass_context
def verify(ctx: click.Context, keep: bool, as_json: bool) -> None:
    """Read every file and remove those that are damaged. The status is 1 where there were any."""
    from ..kernels.cpu.cache import entries, remove

    found = list(entries())
    bad = [e for e in found if not e.is_good()]
    gone = [] if keep else remove(bad)
    _answer(as_json, {"good": len(found) - len(bad), "damaged": [_row(e) for e in bad], "removed": len(gone)},
            f"{len(found) - len(bad)} files are good, {len(bad)} damaged, {len(gone)} removed")  # fmt: skip
    ctx.exit(1 if bad else 0)


@cache.command(cls=Verb)
@click.option("--size", "most_bytes", type=Nbytes(), help="Leave at most so many bytes, e.g. 500M.")
@click.option("--days", "most_days", type=click.FloatRange(0), help="Remove what was not used for so many days.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
def prune(most_bytes: int | None, most_days: float | None, dry_run: bool, as_json: bool) -> None:
    """Remove the longest unused files, and what killed processes left half written."""
    from ..kernels.cpu.cache import prunable, remove

    if most_bytes is None and most_days is None:
        raise click.UsageError("say what shall go: --size, --days or both")
    chosen = prunable(most_bytes, most_days)
    _removed(chosen if dry_run else remove(chosen), dry_run, as_json)


@cache.command(cls=Verb)
@json_option
def clear(as_json: bool) -> None:
    """Remove everything. Kernels are compiled again when they are next asked for."""
    from ..kernels.cpu.cache import entries, remove

    _removed(remove(list(entries())), False, as_json)


def _removed(found: Sequence[Entry], dry_run: bool, as_json: bool) -> None:
    _answer(as_json, {"removed": [_row(e) for e in found], "bytes": sum(e.nbytes for e in found), "dry_run": dry_run},
            f"{'would remove' if dry_run else 'removed'} {_sum(found)}")  # fmt: skip


def _answer(as_json: bool, value: dict[str, Any], text: str) -> None:
    if as_json:
        print_json(value)
    else:
        click.echo(text)


def _row(e: Entry) -> dict[str, Any]:
    return {"key": e.key, "kind": e.kind, "bytes": e.nbytes, "used": _day(e.used)}


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _sum(found: Sequence[Entry]) -> str:
    return f"{len(found)} file{'' if len(found) == 1 else 's'}, {sum(e.nbytes for e in found) / (1 << 20):.1f} MiB"
