"""The stack stated for the example, against what an inference uses of a painted stack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deployq.codegen.generated import write_library
from deployq.codegen.kernels import OPTIMIZE
from deployq.config import BuildConfig
from deployq.config_file import example_config, load_config
from deployq.layerwise import IntegerModel
from deployq.layout import to_c_order
from deployq.steps import generate_c, prepare, quantize_prepared
from deployq.targets import load_target
from deployq.verify.qemu import run_qemu
from deployq.verify.reference import run_reference
from deployq.verify.size import EXTERNAL_STACK_BYTES, library_size
from tests.integer_networks import samples
from tests.tools import needs_tools

pytestmark = pytest.mark.qemu

#: How far at most the worst call path goes beyond those that the example takes.
_NOT_TAKEN = 192


@pytest.fixture(scope="module")
def config() -> BuildConfig:
    """That of the example, quantized by the quickest method."""
    example = load_config({}, config_file=example_config())
    return replace(example, method="msq", tune=0, calibration_limit=64)


@pytest.fixture(scope="module")
def digits(config: BuildConfig) -> IntegerModel:
    """The example, quantized."""
    assert config.model is not None and config.calibration is not None
    return quantize_prepared(prepare(config.model, config.calibration, config), config)


@needs_tools("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("target", ["cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m55"])
@pytest.mark.parametrize("optimize", OPTIMIZE)
def test_the_stated_stack_is_enough(
    optimize: str, target: str, digits: IntegerModel, config: BuildConfig, tmp_path: Path
) -> None:
    core = load_target(target)
    library = generate_c(digits, replace(config, target=target, optimize=optimize))
    write_library(library, tmp_path)
    given = samples(digits.graph, 1, np.random.default_rng(1))
    expected = to_c_order(run_reference(digits.graph, given), config.io_layout)
    result = run_qemu(tmp_path, library.prefix, core, to_c_order(given, config.io_layout), expected.shape[1])
    assert np.array_equal(result.outputs, expected)
    stated, used = library_size(tmp_path, library.prefix, core).stack_bytes, result.stack_bytes
    assert 64 < used <= stated <= used + EXTERNAL_STACK_BYTES + _NOT_TAKEN
