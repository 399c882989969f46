"""Write the golden library again: python -m tests.codegen.update_golden."""

from __future__ import annotations

from deployq.codegen.generated import write_library
from tests.codegen.test_emit import _GOLDEN, golden_library

if __name__ == "__main__":
    for path in _GOLDEN.glob("*"):
        path.unlink()
    write_library(golden_library(), _GOLDEN)
