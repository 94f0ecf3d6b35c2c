"""Lets the test modules of this folder import `op_harness` (importlib mode adds nothing to sys.path)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
