"""The MLPerf Tiny networks at two bits: exact on every target, layer by layer and depth first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deployq.codegen.generated import write_library
from deployq.layout import to_c_order
from deployq.steps import generate_c
from deployq.targets import load_target, target_names
from deployq.verify.qemu import run_qemu
from deployq.verify.reference import run_reference
from tests.networks import MLPERF_TINY, VARIABLE, Quantized, data_directory, mlperf_configuration
from tests.tools import needs_tools

pytestmark = [
    pytest.mark.skipif(data_directory() is None, reason=f"{VARIABLE} is not set"),
    pytest.mark.data,
    pytest.mark.qemu,
    pytest.mark.slow,
]


@needs_tools("gcc", "arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("name", MLPERF_TINY)
def test_every_target_computes_the_same(name: str, tmp_path: Path) -> None:
    quantized = Quantized.build(mlperf_configuration(name, "2"))
    verification = quantized.verify("host", host_samples=1, qemu_samples=1)
    assert verification.mismatches == 0
    assert {name for name, outcome in verification.outcomes.items() if outcome.skipped} == {"qemu"}
    graph = quantized.network.graph
    quantization = graph.tensors[graph.input].quantization
    assert quantization is not None
    sample = quantized.prepared.samples.quantized(quantization, slice(0, 1))
    given, expected = (to_c_order(values, "nhwc") for values in (sample, run_reference(graph, sample)))
    depth_first = {"optimize": "ram", "input_rows": len(graph.tensors[graph.input].shape) == 3}
    for target in map(load_target, target_names()):
        if target.machines:
            arenas = []
            for number, settings in enumerate(({}, depth_first)):
                directory = tmp_path / f"{target.name}-{number}"
                config = replace(quantized.config, target=target.name, **settings)
                library = generate_c(quantized.network, config)
                write_library(library, directory)
                result = run_qemu(directory, library.prefix, target, given, expected.shape[1])
                assert np.array_equal(result.outputs, expected), (target.name, settings)
                arenas.append(library.arena_bytes)
            # Without a buffer for the input, and not larger but for rows of it.
            assert arenas[1] <= arenas[0] + graph.tensors[graph.input].size // 4, target.name
