"""The kernels: one module per family, `choose.py` takes the best that applies."""

from deployq.codegen.kernels.choose import choose_kernel
from deployq.codegen.kernels.core import OPTIMIZE, Core
from deployq.codegen.kernels.order import Order, kernel_order
from deployq.codegen.kernels.portable import weight_format
from deployq.codegen.kernels.weighted import prove

__all__ = ["OPTIMIZE", "Core", "Order", "choose_kernel", "kernel_order", "prove", "weight_format"]
