"""The error of a layer's output that every choice of scales and levels is judged by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from deployq.arithmetic import FloatArray


@dataclass(frozen=True)
class Objective(ABC):
    """The error |X w - a X~ q|^2 = energy - 2 a <X~ q, X w> + a^2 |X~ q|^2 of neurons.

    Attributes:
        energy: |X w|^2, (groups, C).

    With a residual E, X W + E stands for X W.
    """

    energy: FloatArray

    @abstractmethod
    def terms(self, levels: FloatArray) -> tuple[FloatArray, FloatArray]:
        """<X~ q, X w> and |X~ q|^2 of levels (groups, N, K, C), each (groups, K, C)."""

    def error(self, levels: FloatArray, scales: FloatArray) -> FloatArray:
        """Errors (groups, C) of levels (groups, N, C) at scales (groups, C)."""
        linear, quadratic = (term[:, 0] for term in self.terms(levels[:, :, None, :]))
        return np.maximum(self.energy - 2 * scales * linear + scales**2 * quadratic, 0)


@dataclass(frozen=True)
class GramObjective(Objective):
    """The objective from the products of a layer's inputs.

    Attributes:
        gram: X~^T X~, (groups, N, N).
        target: X~^T X W, (groups, N, C).
    """

    gram: FloatArray
    target: FloatArray

    def terms(self, levels: FloatArray) -> tuple[FloatArray, FloatArray]:
        """<q, target> and <q, gram q>."""
        flat = levels.reshape(*levels.shape[:2], -1)
        quadratic = np.einsum("gnk,gnk->gk", flat, self.gram @ flat)
        linear = np.einsum("gnkc,gnc->gkc", levels, self.target)
        return linear, np.maximum(quadratic, 0).reshape(linear.shape)
