"""One width per layer of least total sensitivity within a budget, exactly, by integer programming.

Binary x[l, o] says that layer l takes option o, binary y[f] that the C function f is linked:

    minimise    sum x[l, o] sensitivity[l, o]
    subject to  sum_o x[l, o] = 1                                   for every layer,
                x[l, o] <= y[f]                                     for every f that kernel (l, o) needs,
                sum x[l, o] bytes[l, o] + sum y[f] code[f] <= flash,
                8 sum x[l, o] codes[l, o] <= average bits * weights,
                one layer at least differs from each of some assignments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from deployq.allocation.costs import Assignment, FlashCosts, Option
from deployq.alphabet import Alphabet
from deployq.arithmetic import FloatArray
from deployq.errors import BudgetError, UsageError

#: Sensitivity of each option, by node and name of the alphabet.
Sensitivities = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Budget:
    """What an assignment may take; None for no limit.

    Attributes:
        flash: bytes of constants and counted code.
        average_bits: bits per weight in flash, padding included.
    """

    flash: int | None = None
    average_bits: float | None = None

    def allows(self, costs: FlashCosts, assignment: Assignment) -> bool:
        """Whether an assignment keeps to it."""
        if self.flash is not None and costs.flash_bytes(assignment) > self.flash:
            return False
        return self.average_bits is None or costs.packed_bits(assignment) <= self.average_bits

    def __str__(self) -> str:
        parts = [] if self.flash is None else [f"{self.flash:,} bytes of flash"]
        parts += [] if self.average_bits is None else [f"{self.average_bits:g} bits per weight"]
        return " and ".join(parts) or "no limit"


def choose(
    costs: FlashCosts,
    sensitivities: Sensitivities,
    budget: Budget,
    excluded: Iterable[Assignment] = (),
    spare: float = 0.0,
) -> dict[str, Alphabet]:
    """The assignment of least total sensitivity within a budget.

    Args:
        costs: of every option.
        sensitivities: of every option in `costs`.
        budget: what it may take.
        excluded: assignments that are not wanted.
        spare: total sensitivity that may be given up for less code, i.e. for fewer different kernels.

    Raises:
        BudgetError: no assignment is within the budget; the message tells the smallest one.
        UsageError: the sensitivities are not finite.
    """
    program = _Program.of(costs)
    values = [sensitivities[layer][option.alphabet.name] for layer, option in program.options]
    objective = np.array([*values, *(0.0 for _ in program.functions)])
    if not np.isfinite(objective).all():
        raise UsageError("the sensitivity of some layer is not finite", hint="check the calibration samples")
    others = [program.excluding(assignment) for assignment in excluded]
    chosen = program.solve(objective, budget, *others)
    if chosen is None:
        raise _infeasible(program, costs, budget)
    if spare > 0 and program.functions:
        least = sum(sensitivities[layer][letters.name] for layer, letters in chosen.items())
        enough = LinearConstraint(objective[None, :], -np.inf, least + spare)
        chosen = program.solve(program.code_bytes(), budget, enough, *others) or chosen
    return chosen


def choose_several(
    costs: FlashCosts, sensitivities: Sensitivities, budget: Budget, count: int
) -> list[dict[str, Alphabet]]:
    """The best assignments within a budget, ascending in total sensitivity; fewer if there are no more.

    Raises:
        BudgetError: no assignment is within the budget.
        UsageError: the sensitivities are not finite.
    """
    found = [choose(costs, sensitivities, budget)]
    while len(found) < count:
        try:
            found.append(choose(costs, sensitivities, budget, excluded=found))
        except BudgetError:  # all assignments within the budget are found
            break
    return found


@dataclass(frozen=True)
class _Program:
    """The constraints; columns are the options of all layers, then the C functions that are counted."""

    costs: FlashCosts
    options: tuple[tuple[str, Option], ...]
    functions: tuple[str, ...]

    @staticmethod
    def of(costs: FlashCosts) -> _Program:
        options = tuple(
            (name, option) for name, layer in costs.layers.items() for option in layer.options.values()
        )
        return _Program(costs, options, tuple(sorted(costs.code.functions)))

    def solve(
        self, objective: FloatArray, budget: Budget, *further: LinearConstraint
    ) -> dict[str, Alphabet] | None:
        """Least sum of `objective`, one value per column; None if no assignment is allowed."""
        columns = len(objective)
        constraints = [self._one_option_each(columns), *self._functions_linked(columns)]
        constraints += [*self._limits(budget), *further]
        # Scaled, because the solver's tolerances are absolute and sensitivities may be tiny.
        scale = np.abs(objective).max(initial=0) or 1.0
        result = milp(
            objective / scale,
            integrality=np.ones(columns),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},
        )
        if result.x is None:
            return None
        return {
            name: option.alphabet
            for (name, option), taken in zip(self.options, result.x, strict=False)
            if taken > 0.5
        }

    def flash_bytes(self) -> FloatArray:
        """Flash of each column."""
        tables = [float(option.tables_bytes) for _, option in self.options]
        return np.asarray(self.code_bytes() + np.array([*tables, *(0.0 for _ in self.functions)]))

    def code_bytes(self) -> FloatArray:
        """Machine code of each column."""
        functions = [float(self.costs.code.functions[name]) for name in self.functions]
        return np.array([*(0.0 for _ in self.options), *functions])

    def code_bits(self) -> FloatArray:
        """Bits of packed codes of each column."""
        codes = [8.0 * option.codes_bytes for _, option in self.options]
        return np.array([*codes, *(0.0 for _ in self.functions)])

    def _one_option_each(self, columns: int) -> LinearConstraint:
        layers = {name: row for row, name in enumerate(self.costs.layers)}
        rows = [layers[name] for name, _ in self.options]
        entries = (np.ones(len(rows)), (rows, range(len(rows))))
        return LinearConstraint(csr_array(entries, shape=(len(layers), columns)), 1, 1)

    def _functions_linked(self, columns: int) -> list[LinearConstraint]:
        pairs = [
            (column, len(self.options) + self.functions.index(name))
            for column, (_, option) in enumerate(self.options)
            for name in sorted(self.costs.code.needs.get(option.function, ()))
        ]
        if not pairs:
            return []
        rows = np.repeat(np.arange(len(pairs)), 2)
        entries = (np.tile([1.0, -1.0], len(pairs)), (rows, np.array(pairs).reshape(-1)))
        return [LinearConstraint(csr_array(entries, shape=(len(pairs), columns)), -np.inf, 0)]

    def _limits(self, budget: Budget) -> list[LinearConstraint]:
        limits = []
        if budget.flash is not None:
            left = budget.flash - self.costs.other_bytes - self.costs.code.base_bytes
            limits.append(LinearConstraint(self.flash_bytes()[None, :], -np.inf, left))
        if budget.average_bits is not None:
            # Codes are whole bytes: rounding the limit down to bits keeps rounding errors of floats out.
            allowed = np.floor(budget.average_bits * self.costs.weights + 1e-6)
            limits.append(LinearConstraint(self.code_bits()[None, :], -np.inf, allowed))
        return limits

    def excluding(self, assignment: Assignment) -> LinearConstraint:
        """At least one layer differs from an assignment."""
        taken = [float(option.alphabet == assignment[name]) for name, option in self.options]
        row = np.array([*taken, *(0.0 for _ in self.functions)])[None, :]
        return LinearConstraint(row, -np.inf, len(self.costs.layers) - 1)


def _infeasible(program: _Program, costs: FlashCosts, budget: Budget) -> BudgetError:
    """What the smallest network takes, in the units of the budget."""
    why = []
    if budget.flash is not None:
        smallest = program.solve(program.flash_bytes(), Budget()) or {}
        why.append(f"the smallest choice of widths takes {costs.flash_bytes(smallest):,} bytes of flash")
    if budget.average_bits is not None:
        fewest = program.solve(program.code_bits(), Budget()) or {}
        why.append(f"the fewest bits per weight, with padding, are {costs.packed_bits(fewest):.3f}")
    return BudgetError(
        f"no choice of widths keeps to {budget}",
        where="--flash" if budget.flash is not None else "--average-bits",
        why="; ".join(why),
        hint="a larger budget, or a smaller network",
    )
