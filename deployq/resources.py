"""Where the data files of deployq are, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from deployq.errors import DeployqError

_PACKAGE = Path(__file__).resolve().parent


def resource_directory(kind: Literal["examples", "targets", "templates"]) -> Path:
    """Directory of the target descriptions or of the C templates.

    The wheel carries both inside the package, under `_resources`; in a checkout they stand at the
    top level, next to the package.

    Raises:
        DeployqError: neither place has the directory (a damaged installation).
    """
    candidates = (_PACKAGE / "_resources" / kind, _PACKAGE.parent / kind)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise DeployqError(
        f"the {kind} directory of deployq is missing",
        where=" or ".join(map(str, candidates)),
        hint="reinstall deployq",
    )
