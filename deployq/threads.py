"""One thread for numpy's matrix products.

Two reasons: the result of a floating-point product must not depend on the number of cores of the
machine, or a second build would not be byte-identical; and the small products of a network run up to
25 times slower when the threads of OpenBLAS compete with another busy process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@cache
def _controller() -> ThreadpoolController:
    """Finds the libraries that are loaded at the first call, when numpy certainly is."""
    return ThreadpoolController()


def single_threaded(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorator: run a function with single-threaded BLAS."""

    @wraps(function)
    def limited(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with _controller().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return limited
