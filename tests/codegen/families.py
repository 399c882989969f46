"""Every family of kernels, and what is drawn to test it in QEMU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from unittest.mock import patch

from hypothesis import strategies as st

from tests.codegen.batches import Family, Run
from tests.codegen.depthwise_layers import depthwise_layers, lane_layers, window_layers
from tests.codegen.fields_conv2d_layers import PAIR_ALPHABETS, fields_layers
from tests.codegen.linear_layers import linear_layers
from tests.codegen.sparse_layers import sparse_convolutions, sparse_linear_layers
from tests.codegen.unweighted_layers import additions, average_pools, clamps, max_pools, softmaxes
from tests.integer_networks import ALPHABETS

_ALL = tuple(letters.name for letters in ALPHABETS)
_MASKED = ("midrise-4", "midtread-4", "symmetric-8", "midtread-8", "midrise-8", "midtread-7")
_WIDENED = ("midrise-3", "midrise-6", "midtread-7")
_VECTORS = (*PAIR_ALPHABETS[1:], *_WIDENED, "midrise-4", "midtread-4", "symmetric-8", "midtread-8")
_LANES = ("midtread-3", "midrise-3", "midtread-5", "midrise-5")
_FIVE = ("midtread-5", "midrise-5")
_WOVEN = (*_LANES, "midtread-6", "midrise-6")

#: Inputs that are not expanded in advance, and too many for a chunk; outputs too many for a slice of sums.
_WIDE = (range(1, 71), (128, 257, 264, 320, 400, 640))
_LONG = (range(1, 71), (127, 128, 256, 515, 640, 1030))
_MANY = (range(1, 61), range(1, 61), (127, 128, 513, 640))

#: The C form, no assembly.
_C = "-DDQ_NO_ASM"

_DSP = (
    Run("cortex-m4"),
    Run("cortex-m4"),
    Run("cortex-m4", ("-O2", _C)),
    Run("cortex-m7", ("-O3",)),
    Run("cortex-m33", ("-Os",)),
)
_DSP_IN_C = (Run("cortex-m4", count=150), Run("cortex-m7", ("-O3",), 75), Run("cortex-m33", ("-Os",), 75))
_WITHOUT_DSP = (
    Run("cortex-m3", count=90),
    Run("cortex-m3", ("-Os", _C)),
    Run("cortex-m0plus"),
    Run("cortex-m0plus", ("-Os", "-ffunction-sections"), 45),
    Run("cortex-m0plus", ("-Os", _C), 45),
)
_ARMV7M = (Run("cortex-m3", count=120), Run("cortex-m3", ("-Os", _C), 90), Run("cortex-m3", ("-O3",), 90))
_ARMV6M = (
    Run("cortex-m0plus", count=120),
    Run("cortex-m0plus", ("-Os", _C), 90),
    Run("cortex-m0plus", ("-O3",), 90),
)
_HELIUM = (
    Run("cortex-m55", count=120),
    Run("cortex-m55", ("-Os",), 100),
    Run("cortex-m55", ("-O3", "-DDQ_NO_MVE"), 80),
)
#: What Helium has no kernel for.
_FIVE_ON_HELIUM = (Run("cortex-m55", count=150), Run("cortex-m55", ("-Os", _C), 150))
_IN_C = (Run("cortex-m3", count=150), Run("cortex-m0plus", ("-Os",), 150))
_ANYWHERE = tuple(Run(f"cortex-{core}", count=75) for core in ("m4", "m33", "m3", "m0plus"))


def _tables() -> AbstractContextManager[object]:
    """The tables of fully connected layers are always taken."""
    return patch("deployq.codegen.kernels.linear_tables.pays", lambda *given: True)


def _no_tables() -> AbstractContextManager[object]:
    """They never are."""
    return patch("deployq.codegen.kernels.linear_tables.pays", lambda *given: False)


@contextmanager
def _long() -> Iterator[None]:
    """Long multiplications are taken for 6 bits and more, whatever flash they need."""
    with (
        _no_tables(),
        patch("deployq.codegen.kernels.linear_long.takes_too_much_flash", lambda *given: False),
    ):
        yield


FAMILIES = (
    Family("DSP convolution 1/2 bits", r"dq_conv2d_w\ds\da8_pairs_\w+", fields_layers(PAIR_ALPHABETS), _DSP),
    Family(
        "DSP convolution 4/8 bits",
        r"dq_conv2d_w[48]s\da8_(linked|masked)_\w+",
        fields_layers(_MASKED),
        _DSP,
    ),
    Family(
        "DSP convolution 3/5/6 bits",
        r"dq_conv2d_w[356]s\da8_(linked|masked)_\w+",
        fields_layers(_WOVEN),
        _DSP,
    ),
    Family("DSP convolution by lanes", r"dq_conv2d_w\da8_smlad", fields_layers(_LANES), _DSP_IN_C, "flash"),
    Family("DSP linear 1/2 bits", r"dq_linear_w[12]a8_fields\w*", linear_layers(PAIR_ALPHABETS), _DSP),
    Family("DSP linear 4/8 bits", r"dq_linear_w[48]a8_fields\w*", linear_layers(_MASKED, _WIDE), _DSP),
    Family("DSP linear 3/5/6 bits", r"dq_linear_w[356]a8_fields\w*", linear_layers(_WOVEN, _WIDE), _DSP),
    Family("Helium core 5 bits", r"dq_conv2d_w5s\da8_masked_\w+", fields_layers(_FIVE), _FIVE_ON_HELIUM),
    Family("DSP linear by lanes", r"dq_linear_w\da8_smlad", linear_layers(_LANES), _DSP_IN_C, "flash"),
    Family("DSP depthwise", r"dq_depthwise2d_\w+_smlad", depthwise_layers(st.integers(1, 13)), _DSP),
    Family("DSP depthwise of any window", r"dq_depthwise2d_\w+_smlad", window_layers(), _DSP),
    Family("table convolution", r"dq_conv2d_w\da8_planes(_halves)?", fields_layers(_ALL), _WITHOUT_DSP),
    Family(
        "whole-window convolution",
        r"dq_conv2d_w\da8_planes_(whole|wide)",
        fields_layers((*PAIR_ALPHABETS, "midtread-3", "midrise-3", "midrise-4", "midtread-4")),
        _ARMV6M,
    ),
    Family(
        "half-word linear",
        r"dq_linear_w\da8_halfwords(_halves)?",
        linear_layers(),
        _WITHOUT_DSP,
        preferred=_no_tables,
    ),
    Family(
        "table linear",
        r"dq_linear_w\da8_tables(_halves)?",
        linear_layers(outputs=_MANY),
        _WITHOUT_DSP,
        preferred=_tables,
    ),
    Family(
        "long linear",
        "dq_linear_w8a8_long",
        linear_layers(("midtread-6", "midtread-7", "symmetric-8", "midtread-8", "midrise-8"), inputs=_LONG),
        _ARMV7M,
        preferred=_long,
    ),
    Family(
        "two-output depthwise", r"dq_depthwise2d_\w+_w\da8_(neighbours|halves)", lane_layers(), _WITHOUT_DSP
    ),
    Family("two-row depthwise", r"dq_depthwise2d_\w+_pairs(_halves)?", depthwise_layers(), _WITHOUT_DSP),
    Family("Helium convolution", r"dq_conv2d_w\da8_mve\w*", fields_layers(("binary", *_VECTORS)), _HELIUM),
    Family("Helium linear", r"dq_linear_w\da8_mve\w*", linear_layers((*_VECTORS, "midrise-8")), _HELIUM),
    Family(
        "Helium depthwise",
        r"dq_depthwise2d_w\da8_mve\w*",
        depthwise_layers(st.sampled_from((2, 4, 5, 8, 8, 15, 16, 17, 24, 32, 35))),
        _HELIUM,
    ),
    Family("Helium average pool", "dq_averagepool2d_a8_mve", average_pools(), _HELIUM),
    Family("Helium addition", "dq_add_a8_mve", additions(), _HELIUM),
    Family("average pool", "dq_averagepool2d_a8", average_pools(), _ANYWHERE),
    Family("max pool", "dq_maxpool2d_a8", max_pools(), _ANYWHERE),
    Family("addition", "dq_add_a8", additions(), _ANYWHERE),
    Family("clamp", "dq_clip_a8", clamps(), _ANYWHERE),
    Family("softmax", "dq_softmax_a8", softmaxes(), _ANYWHERE),
    Family("transposition", "dq_transpose_a8", average_pools(), _ANYWHERE, io_layout="nchw"),
    Family("portable convolution", r"dq_conv2d_w\da8", fields_layers(_ALL), _IN_C, "flash"),
    Family("portable linear", r"dq_linear_w\da8", linear_layers(), _IN_C, "flash"),
    Family("portable depthwise", r"dq_depthwise2d_w\da8", depthwise_layers(), _IN_C, "flash"),
    Family("sparse convolution", r"dq_conv2d_gaps\d_a8", sparse_convolutions(), _ANYWHERE, "flash"),
    Family("sparse linear", r"dq_linear_gaps\d_a8", sparse_linear_layers(), _ANYWHERE, "flash"),
)


def family(name: str) -> Family:
    """The family of a name."""
    return next(family for family in FAMILIES if family.name == name)
