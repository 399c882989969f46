"""Settings that a configuration gives and that its method would ignore."""

from __future__ import annotations

from dataclasses import fields

from deployq.config import BuildConfig
from deployq.errors import UsageError

#: Settings, and the value of another setting without which they mean nothing.
_SETTINGS_OF = (
    ("threshold", "method", "sparse-gpfq"),
    ("sparsity", "method", "sparse-gpfq"),
    ("directions", "method", "maly-saab"),
    ("spfq_alphabet", "method", "spfq"),
    ("percentile", "activation_range", "percentile"),
)


def check_used(config: BuildConfig) -> None:
    """Refuse settings that would be ignored: those of a quantizer or a range method not chosen.

    Not a check of `BuildConfig` itself, since a comparison has one for several methods.

    Raises:
        UsageError: names the first such setting.
    """
    defaults = {item.name: item.default for item in fields(config)}
    for name, setting, needed in _SETTINGS_OF:
        if getattr(config, name) != defaults[name] and getattr(config, setting) != needed:
            option = f"--{setting.replace('_', '-')}"
            raise UsageError(
                f"{name} is a setting of {needed}, and would be ignored",
                where=f"--{name.replace('_', '-')}",
                hint=f"{option} {needed}, or leave it out",
            )
