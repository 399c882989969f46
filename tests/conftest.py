"""Settings of all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadlines: the machine may be busy. In CI the examples are the same at every run.
settings.register_profile("deployq", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("deployq")
