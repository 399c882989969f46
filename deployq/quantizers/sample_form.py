"""GPFQ on the samples themselves, for layers with more inputs than samples.

The Gram form of `deployq.quantizers.gpfq` multiplies N x N matrices, which is wasted work when a layer
has more inputs N than rows m, or very many inputs and one known scale. Here the error matrix
U = X W - X~ Q of the inputs decided so far, (m, C), is kept, as the papers write it, but a block of inputs
at a time:

    block targets = X~_J^T U + tril(X~_J^T X_J) W_J,   U <- U + X_J W_J - X~_J Q_J.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from deployq.alphabet import Alphabet
from deployq.arithmetic import FloatArray
from deployq.quantizers.recursion import Recursion

Array = npt.NDArray[Any]

#: Inputs decided between two updates of the error matrix.
_BLOCK = 64


def path_following_on_samples(
    quantized: Array, analog: Array, weights: FloatArray, alphabet: Alphabet, scales: FloatArray
) -> FloatArray:
    """Levels of GPFQ without a Gram matrix of all inputs; O(m N C), three matrix products per block.

    In float64 these are the levels of the recursion of arXiv 2010.15979 and 2201.11113, with their
    guarantee. deployq itself streams statistics, which a search over scales, a refinement or another method
    use again, and whose memory does not depend on m; this form is for one solution at given scales: it needs
    6 m N C operations instead of 4 m N^2, and m (2 N + C) numbers instead of 3 N^2.

    Args:
        quantized: X~, (groups, m, N), float32 or float64: the precision of the large products.
        analog: X, the same shape; the same object if both networks agree.
        weights: (groups, N, C).
        alphabet: levels.
        scales: (groups, C), positive.

    Returns:
        Levels (groups, N, C).

    Raises:
        ValueError: the shapes do not fit.
    """
    groups, inputs, channels = weights.shape
    shape = (groups, quantized.shape[1], inputs)
    if quantized.shape != shape or analog.shape != shape or scales.shape != (groups, channels):
        raise ValueError(
            f"expected rows {shape} and scales {(groups, channels)}, "
            f"got {quantized.shape}, {analog.shape} and {scales.shape}"
        )
    error = np.zeros((groups, shape[1], channels), dtype=np.result_type(quantized, analog))
    update = np.empty_like(error)
    levels = np.empty(weights.shape)
    for start in range(0, inputs, _BLOCK):
        block = slice(start, start + _BLOCK)
        # The columns of both networks side by side, so that each product is one call.
        columns = (quantized[:, :, block], analog[:, :, block])
        rows = np.concatenate(columns[:1] if analog is quantized else columns, axis=2)
        count = columns[0].shape[2]
        recursion = _block_recursion(rows, count, weights[:, block], error)
        levels[:, block] = recursion.run(scales, alphabet.nearest)
        change = -levels[:, block] * scales[:, None, :]
        if analog is quantized:
            change += weights[:, block]
        else:
            change = np.concatenate((change, weights[:, block]), axis=1)
        error += np.matmul(rows, change.astype(error.dtype), out=update)
    return levels


def _block_recursion(rows: Array, count: int, weights: FloatArray, error: Array) -> Recursion:
    """The recursion of a block of inputs that starts with an error (groups, m, C).

    Args:
        rows: the columns of X~ and, where they differ, of X beside them, (groups, m, count or 2 count).
        count: inputs of the block.
        weights: (groups, count, C).
        error: U.
    """
    transposed = rows[:, :, :count].transpose(0, 2, 1)
    products = (transposed @ rows).astype(np.float64)
    gram, cross = products[:, :, :count], products[:, :, -count:]
    energy = np.diagonal(gram, axis1=1, axis2=2)[:, :, None]
    dead = energy <= 0
    norms = np.where(dead, 1.0, energy)
    targets = (transposed @ error + np.tril(cross) @ weights) / norms
    return Recursion(gram / norms, np.where(dead, weights, targets))
