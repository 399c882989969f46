"""Code of mixed widths, predicted from the kernels, against libraries that are compiled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deployq.allocation.costs import CodeSizes, flash_costs, uniform_assignments
from deployq.allocation.trial import trial_graph
from deployq.codegen.emit import generate
from deployq.codegen.generated import EmitOptions, write_library
from deployq.targets import load_target
from deployq.verify.kernel_sizes import kernel_sizes
from deployq.verify.size import library_size
from tests.allocation.networks import Example


@pytest.mark.qemu
@pytest.mark.parametrize("name", ("cortex-m4", "cortex-m0plus", "cortex-m55"))
def test_flash_of_mixed_widths_is_predicted_within_two_percent(name: str, tmp_path: Path) -> None:
    example = Example.make(samples=32)
    target, options = load_target(name), EmitOptions()

    def trial(assignment):  # type: ignore[no-untyped-def]
        return trial_graph(example.graph, example.calibrated, assignment)

    found = kernel_sizes(map(trial, uniform_assignments(example.graph)), target, options)
    code = CodeSizes(found.base_bytes, found.functions, found.needs)
    costs = replace(flash_costs(example.graph, example.calibrated, target), code=code)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        mixed = {
            node: list(layer.options.values())[rng.integers(len(layer.options))].alphabet
            for node, layer in costs.layers.items()
        }
        write_library(generate(trial(mixed), target, options), tmp_path / str(seed))
        size = library_size(tmp_path / str(seed), options.prefix, target)
        assert costs.flash_bytes(mixed) == pytest.approx(size.code_bytes + size.weights_bytes, rel=0.02)
