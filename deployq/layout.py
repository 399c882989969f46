"""Element orders: the graph is NCHW, the generated C works on HWC."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int8Array = npt.NDArray[np.int8]


def to_c_order(values: Int8Array, layout: str) -> Int8Array:
    """A batch (n, C, H, W) or (n, features) as rows (n, size) in the order of the C function's buffers.

    Args:
        values: int8 batch of the graph.
        layout: "nhwc" or "nchw", the `io_layout` of the build.
    """
    ordered = values.transpose(0, 2, 3, 1) if values.ndim == 4 and layout == "nhwc" else values
    return np.ascontiguousarray(ordered).reshape(len(values), -1)
