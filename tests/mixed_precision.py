"""Accuracy of mixed precision over budgets and calibration subsets, as a table.

    DEPLOYQ_DATA=... python -m tests.mixed_precision --budgets 1.1,1.6,2.1,2.5,3.0 --seeds 3

Every seed draws its calibration images as `deployq quantize --seeds` does; widths are chosen as
`deployq build --bits auto --average-bits B` chooses them, one search serving all budgets. Accuracy is
that of the integer network on the whole test part, which nothing is chosen on.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

import numpy as np

from deployq.allocation.program import Budget
from deployq.calibration import calibrated
from deployq.experiment import open_experiment
from deployq.pareto import short_width
from deployq.post_training import plan_of, solved
from deployq.widths import open_search
from tests.networks import NETWORKS, configuration, data_directory


def main() -> int:
    """Print a line per seed and budget, then mean and spread per budget."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="resnet8ft")
    parser.add_argument("--budgets", default="1.1,1.6,2.1,2.5,3.0")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()
    if data_directory() is None:
        print("DEPLOYQ_DATA is not set: nothing to measure", file=sys.stderr)
        return 2
    budgets = [float(budget) for budget in arguments.budgets.split(",")]
    plain = configuration(NETWORKS[arguments.network], "2", arguments.first_seed, arguments.samples)
    config = replace(plain, bits="auto", average_bits=max(budgets), method="auto")
    experiment = open_experiment(config, max(arguments.seeds, 2))
    print(f"{arguments.network}: float {experiment.evaluation.float_accuracy:.2f}", flush=True)
    found: dict[float, list[float]] = {budget: [] for budget in budgets}
    for seed, samples in zip(experiment.seeds[: arguments.seeds], experiment.draws, strict=False):
        own = replace(config, seed=seed)
        prepared = experiment.prepared
        calibration = calibrated(
            prepared.graph, samples, prepared.input_quantization, own, lambda message: None
        )
        plan = plan_of(calibration, own)
        started = time.monotonic()
        with open_search(plan.fitted, plan.weights, own) as search:
            chosen = {budget: search.best(Budget(average_bits=budget)) for budget in budgets}
            costs = search.costs
        print(f"seed {seed}: widths chosen in {time.monotonic() - started:.0f} s", flush=True)
        for budget, candidate in chosen.items():
            started = time.monotonic()
            widths = replace(plan, weights=replace(plan.weights, layers=candidate.assignment))
            network = solved(calibration, widths, own, lambda message: None)
            found[budget].append(experiment.evaluation.score(network.graph))
            names = " ".join(short_width(candidate.assignment[name].name) for name in costs.layers)
            print(
                f"  {budget:g} bits: {costs.packed_bits(candidate.assignment):.3f} with padding, {names}, "
                f"accuracy {found[budget][-1]:.2f} ({time.monotonic() - started:.0f} s)",
                flush=True,
            )
    for budget, scores in found.items():
        print(f"{budget:g} bits: mean {np.mean(scores):.2f}, spread {max(scores) - min(scores):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
