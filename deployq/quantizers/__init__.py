"""Weight quantizers, one file each; importing this package registers every file it contains."""

from importlib import import_module
from pkgutil import iter_modules

from deployq.quantizers.registry import method, method_names

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["method", "method_names"]
