"""The integer program against every assignment there is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from deployq.allocation.costs import CodeSizes, FlashCosts, LayerOptions, Option
from deployq.allocation.program import Budget, choose, choose_several
from deployq.alphabet import Alphabet, default_alphabet
from deployq.errors import BudgetError, UsageError

WIDTHS = ("1", "2", "3", "4", "8")
Instance = tuple[FlashCosts, dict[str, dict[str, float]]]


def instance(rng: np.random.Generator, layers: int, *, code: bool) -> Instance:
    """Random layers with two kernels per width, and random sensitivities."""
    costs, sensitivities = {}, {}
    for index in range(layers):
        weights = int(rng.integers(10, 400))
        options = {}
        for width in WIDTHS:
            letters = default_alphabet(width)
            codes = weights * letters.bits // 8 + int(rng.integers(0, 5))
            function = f"kernel{index % 2}_{width}"
            options[letters.name] = Option(letters, codes + int(rng.integers(0, 20)), codes, function, 0)
        costs[f"layer {index}"] = LayerOptions(f"layer {index}", weights, options)
        sensitivities[f"layer {index}"] = {
            name: float(rng.gamma(1.0) * 4.0**-option.alphabet.bits) for name, option in options.items()
        }
    functions, needs = {}, {}
    for width in WIDTHS:
        functions[f"shared_{width}"] = int(rng.integers(5, 60))
        for kind in range(2):
            functions[f"kernel{kind}_{width}"] = int(rng.integers(5, 60))
            needs[f"kernel{kind}_{width}"] = frozenset((f"kernel{kind}_{width}", f"shared_{width}"))
    sizes = CodeSizes(33, functions, needs) if code else CodeSizes()
    return FlashCosts(costs, 17, sizes), sensitivities


def everything(costs: FlashCosts) -> list[dict[str, Alphabet]]:
    """All assignments."""
    names = list(costs.layers)
    letters = [[option.alphabet for option in layer.options.values()] for layer in costs.layers.values()]
    return [dict(zip(names, chosen, strict=True)) for chosen in product(*letters)]


def total(sensitivities: dict[str, dict[str, float]], assignment: dict[str, Alphabet]) -> float:
    return sum(sensitivities[name][letters.name] for name, letters in assignment.items())


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ("flash", "flash with code", "bits", "both"))
def test_the_program_finds_the_best_assignment(seed: int, kind: str) -> None:
    rng = np.random.default_rng([seed, len(kind)])
    costs, sensitivities = instance(rng, 4, code=kind in ("flash with code", "both"))
    assignments = everything(costs)
    flash = int(np.quantile([costs.flash_bytes(item) for item in assignments], rng.uniform(0.02, 0.8)))
    bits = float(np.quantile([costs.packed_bits(item) for item in assignments], rng.uniform(0.1, 0.8)))
    budget = Budget(None if kind == "bits" else flash, bits if kind in ("bits", "both") else None)
    allowed = [item for item in assignments if budget.allows(costs, item)]
    chosen = choose(costs, sensitivities, budget)
    assert budget.allows(costs, chosen)
    assert total(sensitivities, chosen) == pytest.approx(
        min(total(sensitivities, item) for item in allowed), rel=1e-6
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_best_few_come_in_order(seed: int) -> None:
    costs, sensitivities = instance(np.random.default_rng(seed), 3, code=True)
    assignments = everything(costs)
    budget = Budget(flash=int(np.median([costs.flash_bytes(item) for item in assignments])))
    totals = sorted(total(sensitivities, item) for item in assignments if budget.allows(costs, item))
    found = choose_several(costs, sensitivities, budget, 7)
    assert [total(sensitivities, item) for item in found] == pytest.approx(totals[:7], rel=1e-6)
    assert len({tuple(letters.name for letters in item.values()) for item in found}) == 7


def test_there_may_be_fewer_assignments_than_asked_for() -> None:
    costs, sensitivities = instance(np.random.default_rng(0), 2, code=False)
    assert len(choose_several(costs, sensitivities, Budget(), 100)) == len(WIDTHS) ** 2
    smallest = min(costs.flash_bytes(item) for item in everything(costs))
    within = [item for item in everything(costs) if costs.flash_bytes(item) <= smallest]
    assert len(choose_several(costs, sensitivities, Budget(flash=smallest), 5)) == min(5, len(within))


@pytest.mark.parametrize("seed", range(6))
def test_what_may_be_spared_buys_less_code(seed: int) -> None:
    costs, sensitivities = instance(np.random.default_rng(seed), 4, code=True)
    assignments = everything(costs)
    bits = float(np.median([costs.packed_bits(item) for item in assignments]))
    budget = Budget(average_bits=bits)
    allowed = [item for item in assignments if budget.allows(costs, item)]
    least = min(total(sensitivities, item) for item in allowed)
    chosen = choose(costs, sensitivities, budget, spare=0.3 * least)
    good = [item for item in allowed if total(sensitivities, item) <= 1.3 * least]
    assert total(sensitivities, chosen) <= 1.3 * least * (1 + 1e-6)

    def code(item: dict[str, Alphabet]) -> int:
        return costs.flash_bytes(item) - costs.weights_bytes(item)

    assert code(chosen) == min(code(item) for item in good)


def test_a_budget_that_is_met_exactly_is_met() -> None:
    costs, sensitivities = instance(np.random.default_rng(3), 4, code=True)
    for assignment in everything(costs)[::37]:
        budget = Budget(costs.flash_bytes(assignment), costs.packed_bits(assignment))
        assert budget.allows(costs, choose(costs, sensitivities, budget))


def test_an_impossible_budget_names_the_smallest_network() -> None:
    costs, sensitivities = instance(np.random.default_rng(4), 4, code=True)
    assignments = everything(costs)
    smallest = min(costs.flash_bytes(item) for item in assignments)
    fewest = min(costs.packed_bits(item) for item in assignments)
    with pytest.raises(BudgetError, match=f"{smallest:,} bytes of flash") as flash:
        choose(costs, sensitivities, Budget(flash=smallest - 1))
    assert flash.value.where == "--flash"
    with pytest.raises(BudgetError, match=f"{fewest:.3f}") as bits:
        choose(costs, sensitivities, Budget(average_bits=fewest - 0.01))
    assert bits.value.where == "--average-bits"
    assert choose(costs, sensitivities, Budget(flash=smallest))


def test_tiny_and_negative_sensitivities_still_decide() -> None:
    costs, sensitivities = instance(np.random.default_rng(5), 3, code=False)
    tiny = {node: {name: value * 1e-12 for name, value in row.items()} for node, row in sensitivities.items()}
    assert choose(costs, tiny, Budget()) == choose(costs, sensitivities, Budget())
    worse = {node: {name: -value for name, value in row.items()} for node, row in sensitivities.items()}
    chosen = choose(costs, worse, Budget())
    assert all(worse[node][letters.name] == min(worse[node].values()) for node, letters in chosen.items())


def test_sensitivities_that_are_not_finite_are_refused() -> None:
    costs, sensitivities = instance(np.random.default_rng(6), 2, code=False)
    sensitivities["layer 1"]["binary"] = float("nan")
    with pytest.raises(UsageError, match="not finite"):
        choose(costs, sensitivities, Budget())


def test_budgets_in_words() -> None:
    assert str(Budget(48 * 1024)) == "49,152 bytes of flash"
    assert str(Budget(1000, 2.1)) == "1,000 bytes of flash and 2.1 bits per weight"
    assert str(Budget()) == "no limit"
