"""The triangular factor of a Gram matrix that second-order quantizers pass errors on with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from deployq.arithmetic import FloatArray
from deployq.quantizers.registry import Note

#: Damping is multiplied by this until the factorization succeeds.
_GROWTH = 10.0


@dataclass(frozen=True)
class UnitFactor:
    """H = U D U^T of one group, with U unit upper triangular.

    Attributes:
        upper: U, (N, N).
        root: square roots of the diagonal of D, (N,).
    """

    upper: FloatArray
    root: FloatArray

    def whitened(self, values: FloatArray) -> FloatArray:
        """D^-1 U^-1 values (N, n), which is U^T H^-1 values."""
        solved = solve_triangular(self.upper, values, lower=False, unit_diagonal=True, check_finite=False)
        return np.asarray(solved / self.root[:, None] ** 2)


def factor(gram: FloatArray, damping: float, note: Note) -> tuple[UnitFactor, float]:
    """Factor a Gram matrix plus damping times the identity, with more damping where that is not definite.

    Args:
        gram: (N, N), symmetric and positive semidefinite up to rounding; no zero on the diagonal.
        damping: non-negative, in units of the entries.
        note: told when the damping had to be raised.

    Returns:
        The factor and the damping that was used.
    """
    size = np.diagonal(gram).mean()
    used = damping
    while True:
        try:
            # Both axes reversed, the lower factor becomes the upper one.
            lower = np.linalg.cholesky((gram + used * np.eye(len(gram)))[::-1, ::-1])
            break
        except np.linalg.LinAlgError:
            used = max(used * _GROWTH, 1e-10 * size)
    if used > damping:
        note(f"the inputs are nearly dependent: damped by {used / size:.0e} of their mean energy")
    upper = lower[::-1, ::-1]
    root = np.diagonal(upper).copy()
    return UnitFactor(np.asarray(upper / root), root), used


def without_dead(gram: FloatArray) -> FloatArray:
    """The matrix (N, N) with the mean energy on the diagonal of inputs that have none."""
    energy = np.diagonal(gram)
    dead = energy <= 0
    if not dead.any():
        return gram
    live = energy[~dead]
    return np.asarray(gram + np.diag(np.where(dead, live.mean() if len(live) else 1.0, 0.0)))
