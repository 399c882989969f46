"""deployq: from a trained network to a bit-exact low-bit C library for microcontrollers.

`build` does everything; `quantize`, `generate_c`, `export_onnx` and `verify` are its steps.
"""

# ruff: noqa: E402
from deployq.startup import end_quietly_while_loading

end_quietly_while_loading()  # before what takes seconds to load

from deployq.config import BuildConfig
from deployq.errors import DeployqError
from deployq.inspection import verify_directory as verify
from deployq.pipeline import build
from deployq.steps import export_onnx, generate_c, quantize
from deployq.version import VERSION

__version__ = VERSION

__all__ = [
    "BuildConfig",
    "DeployqError",
    "__version__",
    "build",
    "export_onnx",
    "generate_c",
    "quantize",
    "verify",
]
