"""What quantizing a layer uses of the layer's inputs, whether their products are known or the rows."""

from __future__ import annotations

from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from deployq.arithmetic import FloatArray
from deployq.quantizers.objective import Objective
from deployq.quantizers.residual import Residual


class InputStatistics(Protocol):
    """Inputs X (m, N) in the float network and X~ in the network quantized so far.

    The two forms are `LayerStatistics`, the products of the inputs, and `SampleStatistics`, the rows.
    """

    @property
    def mean_quantized(self) -> FloatArray:
        """Mean row of X~, (groups, N)."""

    @property
    def mean_analog(self) -> FloatArray:
        """Mean row of X, (groups, N)."""

    @property
    def energy(self) -> FloatArray:
        """|X~_t|^2 of every input, (groups, N)."""

    @property
    def dead(self) -> npt.NDArray[np.bool_]:
        """Inputs whose column of X~ is zero (in centred statistics: constant), (groups, N)."""

    @property
    def residual(self) -> Residual | None:
        """Of the branch the output is added to, if there is one."""

    @property
    def finite(self) -> bool:
        """Whether all of it is."""

    @property
    def nbytes(self) -> int:
        """Memory it takes, but for vectors."""

    def objective(self, weights: FloatArray) -> Objective:
        """The error of quantized weights for real weights (groups, N, C)."""

    def reordered(self, order: npt.NDArray[np.intp]) -> Self:
        """The statistics with input order[g, t] of group g at place t; order is (groups, N)."""

    def with_identity(self, groups: npt.NDArray[np.bool_]) -> Self:
        """The statistics as if in the chosen groups (groups,) every input had been seen once, by itself."""

    def without_residual(self) -> Self:
        """The statistics of the layer alone."""
