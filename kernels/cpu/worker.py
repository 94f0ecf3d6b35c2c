"""A process that compiles kernels into the cache: reads a JSON list of kernel texts, says "done". What fails is left for the
process that asked, which compiles it again and raises the error where a person can see it."""

from __future__ import annotations

import json
import sys

from .objects import KernelCompileError, kernel_object


def main() -> int:
    """Compiles the texts that come in on standard input."""
    for text in json.load(sys.stdin):
        try:
            kernel_object(text)
        except KernelCompileError as e:
            print(e, file=sys.stderr)
            return 1
    print("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
