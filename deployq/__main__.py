"""`python -m deployq`, the same as `deployq`."""

from deployq.cli import entry_point

entry_point()
