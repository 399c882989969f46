"""From a network and a budget to widths, on a small network with real data flow."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from deployq.allocation.allocate import Labelled, allocate
from deployq.allocation.costs import FlashCosts, flash_costs
from deployq.allocation.pareto import front, pareto_table
from deployq.allocation.program import Budget
from deployq.allocation.search import Candidate, Search
from deployq.allocation.sensitivity import SENSITIVITY_CHUNKS, measure, widest, with_wide_options
from deployq.allocation.workbench import workbench
from deployq.alphabet import alphabet, default_alphabet
from deployq.errors import AccuracyError, BudgetError, UsageError
from deployq.graph import run_graph
from deployq.layerwise import WeightSettings
from deployq.pareto import ParetoTable, pareto_cells, render_pareto
from deployq.report.json import dump_json, from_document, to_document
from deployq.targets import load_target
from tests.allocation.networks import Example

SETTINGS = WeightSettings(alphabet("binary"), "gpfq", task="classification")
EXAMPLE = Example.make()


@pytest.fixture(scope="module")
def costs() -> FlashCosts:
    return flash_costs(EXAMPLE.graph, EXAMPLE.calibrated, load_target("cortex-m4"))


def run(costs: FlashCosts, budget: Budget, **settings: object):  # type: ignore[no-untyped-def]
    with workbench(
        EXAMPLE.graph, EXAMPLE.calibrated, SETTINGS, EXAMPLE.batches(0, 96), EXAMPLE.batches(96)
    ) as bench:
        given = {"proposals": 2, "ladder": (2.0,), **settings}
        return allocate(Search(bench, costs), budget, **given)  # type: ignore[arg-type]


def labelled() -> Labelled:
    """Labels that the float network gets right three times of four."""
    batches = tuple(EXAMPLE.batches(96))
    answers = np.concatenate([run_graph(EXAMPLE.graph, batch).argmax(axis=1) for batch, _ in batches])
    wrong = np.arange(len(answers)) % 4 == 0
    return Labelled(batches, np.where(wrong, (answers + 1) % 5, answers))


def test_sensitivities_grow_as_widths_shrink_and_vanish_at_the_centre(costs: FlashCosts) -> None:
    with workbench(
        EXAMPLE.graph, EXAMPLE.calibrated, SETTINGS, EXAMPLE.batches(0, 96), EXAMPLE.batches(96)
    ) as bench:
        centre = widest(costs)
        found = measure(bench, costs, centre)
        assert found.divergence > 0
        for name, increases in found.increases.items():
            assert increases[centre[name].name] == 0
            assert set(increases) == set(costs.layers[name].options)
        for widths in (("binary", "midrise-2"), ("midrise-2", "midrise-3"), ("midrise-3", "midrise-4")):
            wide, narrow = (
                sum(increases[name] for increases in found.increases.values()) for name in reversed(widths)
            )
            assert narrow > wide > 0
        # The last layer has none after it that could make up for its error: it is as if solved alone.
        name = list(costs.layers)[-1]
        alone = bench.solve({**centre, name: alphabet("binary")}).operators
        every = max(1, len(bench.held_out) // SENSITIVITY_CHUNKS)
        outputs = bench.outputs(alone)[::every]
        real = bench.reference.divergence(outputs, every) - found.divergence
        assert found.increases[name]["binary"] == pytest.approx(real, rel=1e-6)


def test_wide_options_follow_the_squared_step() -> None:
    options = [default_alphabet(width) for width in ("1", "2", "3", "4", "5", "8")]
    step = {letters.name: letters.levels**-2 for letters in options}
    measured = {name: 5 * step[name] for name in ("binary", "midrise-2", "midrise-3")}
    derived = with_wide_options(options, measured | {"symmetric-8": 5 * step["symmetric-8"]})
    assert derived == pytest.approx({name: 5 * value for name, value in step.items()})
    # About a narrow centre the wide options are below it, by the same law.
    shifted = {name: value - measured["midrise-2"] for name, value in measured.items()}
    assert with_wide_options(options, shifted)["midrise-4"] == pytest.approx(
        5 * step["midrise-4"] - measured["midrise-2"]
    )
    # Noise that makes more levels look worse is not extrapolated.
    assert with_wide_options(options, {"midrise-2": 0.1, "midrise-3": 0.2})["symmetric-8"] == 0.2


def test_the_choice_is_within_its_budget_and_more_budget_is_not_worse(costs: FlashCosts) -> None:
    divergences = []
    for bits in (1.6, 2.2, 3.5):
        found = run(costs, Budget(average_bits=bits), ladder=())
        assert costs.packed_bits(found.alphabets) <= bits
        divergences += [row.divergence for row in found.table.rows if row.chosen]
    assert divergences[0] > divergences[1] > divergences[2]
    flash = costs.flash_bytes(found.alphabets) - 200
    assert costs.flash_bytes(run(costs, Budget(flash), ladder=()).alphabets) <= flash


def test_equal_arguments_give_equal_results(costs: FlashCosts) -> None:
    first, second = (run(costs, Budget(average_bits=2.5)) for _ in range(2))
    assert first == second


def test_what_is_chosen_by_hand_stays(costs: FlashCosts) -> None:
    name = next(iter(costs.layers))
    fixed = flash_costs(
        EXAMPLE.graph,
        EXAMPLE.calibrated,
        load_target("cortex-m4"),
        by_hand={name: alphabet("ternary")},
    )
    assert run(fixed, Budget(average_bits=3.0), ladder=()).alphabets[name].name == "ternary"


def test_more_proposals_never_make_it_worse(costs: FlashCosts) -> None:
    with workbench(
        EXAMPLE.graph, EXAMPLE.calibrated, SETTINGS, EXAMPLE.batches(0, 96), EXAMPLE.batches(96)
    ) as bench:
        search = Search(bench, costs)
        budget = Budget(average_bits=2.0)
        additive = search.best(budget, proposals=1)
        searched = search.best(budget, proposals=8)
        assert searched.divergence <= additive.divergence
        assert len(search.candidates) == 8
        assert budget.allows(costs, searched.assignment)


def test_a_candidate_beats_another_only_beyond_the_error_of_measurement() -> None:
    rng = np.random.default_rng(0)
    losses = rng.gamma(1.0, size=400)
    base = Candidate({}, losses, 0.0)
    assert Candidate({}, losses - 0.01, 0.0).beats(base)
    assert not Candidate({}, losses - 0.001 + rng.permutation(losses) - losses.mean(), 0.0).beats(base)
    assert not base.beats(base)


def test_the_smallest_network_within_a_drop(costs: FlashCosts) -> None:
    loose = run(costs, Budget(), max_drop=30.0, labelled=labelled())
    tight = run(costs, Budget(), max_drop=5.0, labelled=labelled())
    sizes = [
        costs.flash_bytes(assignment) for assignment in (loose.alphabets, tight.alphabets, widest(costs))
    ]
    assert sizes[0] < sizes[1] < sizes[2]
    for found, limit in ((loose, 30.0), (tight, 5.0)):
        row = next(row for row in found.table.rows if row.chosen)
        assert row.accuracy is not None and found.table.float_accuracy is not None
        assert found.table.float_accuracy - row.accuracy <= limit


def test_without_labels_the_drop_is_the_loss_of_agreement(costs: FlashCosts) -> None:
    found = run(costs, Budget(), max_drop=10.0)
    row = next(row for row in found.table.rows if row.chosen)
    assert row.agreement >= 90 and row.accuracy is None


def test_a_drop_that_is_too_small_for_the_budget_is_refused(costs: FlashCosts) -> None:
    with pytest.raises(AccuracyError, match="loses at most 0"):
        run(costs, Budget(average_bits=1.5), max_drop=0.1)


def test_a_budget_below_the_smallest_network_is_refused(costs: FlashCosts) -> None:
    with pytest.raises(BudgetError, match=f"{costs.smallest_flash:,} bytes"):
        run(costs, Budget(costs.smallest_flash - 1))


def test_accuracies_are_measured_on_spread_batches() -> None:
    batches = tuple(EXAMPLE.batches(size=10))
    given = Labelled(batches, np.arange(len(EXAMPLE.samples)))
    assert len(given.some(1000)) == len(batches)
    some = given.some(50)
    assert 40 <= sum(len(labels) for _, labels in some) <= 50
    for (analog, _), labels in some:
        np.testing.assert_array_equal(analog, EXAMPLE.samples[labels])


def test_no_samples_are_refused(costs: FlashCosts) -> None:
    with (
        pytest.raises(UsageError, match="no calibration samples"),
        workbench(EXAMPLE.graph, EXAMPLE.calibrated, SETTINGS, [], []) as bench,
    ):
        Search(bench, costs).best(Budget())


def test_the_front_leaves_out_what_a_smaller_network_beats(costs: FlashCosts) -> None:
    def candidate(width: str, divergence: float) -> Candidate:
        chosen = {name: default_alphabet(width) for name in costs.layers}
        return Candidate(chosen, np.full(4, divergence), 50.0)

    good, bad, best = candidate("2", 0.2), candidate("5", 0.3), candidate("6", 0.1)
    assert front([best, bad, good], costs) == [good, best]


@pytest.mark.parametrize(("measure", "classifies"), [("KL", True), ("squared error", False)])
def test_only_classifiers_agree(costs: FlashCosts, measure: str, classifies: bool) -> None:
    chosen = {name: default_alphabet("2") for name in costs.layers}
    candidate = Candidate(chosen, np.full(4, 0.25), 50.0)
    table = pareto_table([candidate], candidate, costs, measure)
    assert [row.agreement for row in table.rows] == [50.0 if classifies else None]
    assert ("agreement %" in render_pareto(table)) == classifies
    columns, rows = pareto_cells(table)
    assert len(columns) == len(rows[0])
    assert from_document(ParetoTable, json.loads(dump_json(to_document(table)))) == table


def test_the_table_reads_as_text_and_as_json(costs: FlashCosts) -> None:
    found = run(costs, Budget(average_bits=2.5), labelled=labelled())
    table = found.table
    assert sum(row.chosen for row in table.rows) == 1
    sizes = [row.flash_bytes for row in table.rows]
    assert sizes == sorted(sizes)
    document = json.loads(dump_json(to_document(table)))
    assert from_document(ParetoTable, document) == table
    text = render_pareto(table)
    columns, rows = pareto_cells(table)
    assert "accuracy %" in columns and f"{table.float_accuracy:.2f} %" in text
    assert len(rows) == len(table.rows) and all(len(row) == len(columns) for row in rows)
    assert [line for line in text.splitlines() if line.startswith("*")] == [
        line for line in text.splitlines() if f"{costs.flash_bytes(found.alphabets):,}" in line
    ]
    unlabelled = replace(
        table, float_accuracy=None, rows=tuple(replace(row, accuracy=None) for row in table.rows)
    )
    assert "accuracy %" not in render_pareto(unlabelled)
