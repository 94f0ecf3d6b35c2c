"""What stands over every table: the command that made it, and the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re


def machine() -> str:
    """The machine's kind in a few words: processor, vector extension, cores, and the versions that matter."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
            text = f.read()
    except OSError:
        text = ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = set((re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE) or [""])[0].split())
    vector = next((v for v in ("avx512f", "avx2", "sse4_2") if v in flags), platform.machine())
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("numpy", "numba", "onnx", "onnxruntime"))
    return f"{name[1] if name else platform.processor()} ({vector}), {os.cpu_count()} cores; {versions}"


def made_by(command: str) -> str:
    """The lines above a table."""
    return f"Made by `{command}` on {machine()}.\n"
