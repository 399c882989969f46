"""The optional ONNX model with real-valued input and output: it must give the reference's outputs, too."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from deployq.errors import VerificationError
from deployq.graph import Quantization
from deployq.verify.onnxruntime import LEVELS, run_onnxruntime

Int8Array = npt.NDArray[np.int8]


def check_float_io(
    model: bytes, samples: Int8Array, expected: Int8Array, source: Quantization, target: Quantization
) -> None:
    """Feed the real values of int8 samples and compare with the real values of the expected outputs.

    Raises:
        VerificationError: an output differs.
    """
    real, wanted = (
        ((values.astype(np.float32) - quantization.zero_point) * np.float32(quantization.scale))
        for values, quantization in ((samples, source), (expected, target))
    )
    for level in LEVELS:
        wrong = int(np.count_nonzero(run_onnxruntime(model, real, level)[0] != wanted))
        if wrong:
            raise VerificationError(
                "the ONNX model with float input and output differs from the reference",
                why=f"{wrong} values at optimisation level {level}",
                hint="this is a defect of deployq: please report it with the model",
            )
