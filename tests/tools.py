"""Skip marks for tests that need compilers or emulators."""

from __future__ import annotations

import shutil

import pytest


def needs_tools(*tools: str) -> pytest.MarkDecorator:
    """Skip, with the reason, where one of the programs is not installed."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
