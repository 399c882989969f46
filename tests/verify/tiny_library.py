"""A hand-written two-layer library that follows the contract of the generated code.

Layer 0 adds 1 to every input byte, in the arena. Layer 1 sums pairs of them, saturated, into the output, and
on Arm runs a loop of known length.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

Int8Array = npt.NDArray[np.int8]

PREFIX = "tiny"
INPUT_SIZE, OUTPUT_SIZE = 8, 4

#: Turns of the two-instruction loop in layer 1, and instructions of it: set-up, loop.
LOOP_TURNS = 50_000

_HEADER = """
#ifndef TINY_H
#define TINY_H
#include <stdint.h>
#define TINY_ARENA_BYTES %(arena_bytes)s
#define TINY_ARENA_ALIGN 8
#define TINY_INPUT_SIZE 8
#define TINY_OUTPUT_SIZE 4
#define TINY_LAYER_COUNT 2
int tiny_run(void *arena, const int8_t *input, int8_t *output);
#endif
"""

_KERNELS_HEADER = """
#ifndef DQ_KERNELS_H
#define DQ_KERNELS_H
#include <stdint.h>
#ifndef DQ_LAYER_BEGIN
#define DQ_LAYER_BEGIN(layer) ((void)0)
#endif
#ifndef DQ_LAYER_END
#define DQ_LAYER_END(layer) ((void)0)
#endif
#ifndef DQ_LAYER_OUTPUT
#define DQ_LAYER_OUTPUT(layer, pointer, bytes) ((void)0)
#endif
void dq_increment(const int8_t *input, int8_t *output, int32_t count);
void dq_pairs(const int8_t *input, int8_t *output, int32_t count);
void dq_wait(uint32_t turns);
#endif
"""

_KERNELS = """
#include "dq_kernels.h"

void dq_increment(const int8_t *input, int8_t *output, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        output[i] = (int8_t)(input[i] < 127 ? input[i] + 1 : 127);
    }
}

void dq_pairs(const int8_t *input, int8_t *output, int32_t count)
{
    volatile int32_t sums[16];
    for (int32_t i = 0; i < count; i++) {
        sums[i] = input[2 * i] + input[2 * i + 1];
        const int32_t sum = sums[i];
        output[i] = (int8_t)(sum > 127 ? 127 : sum < -128 ? -128 : sum);
    }
}

#if defined(__arm__)
void dq_wait(uint32_t turns)
{
    __asm__ volatile(".syntax unified\\n1:\\tsubs %0, %0, #1\\n\\tbne 1b" : "+l"(turns) : : "cc");
}
#else
void dq_wait(uint32_t turns)
{
    (void)turns;
}
#endif
"""

_WEIGHTS = """
#include <stdint.h>
extern const int8_t tiny_weights[40];
const int8_t tiny_weights[40] = {1};
"""

_MODEL = """
#include "tiny.h"

#include "dq_kernels.h"

int tiny_run(void *arena, const int8_t *input, int8_t *output)
{
    int8_t *const first = (int8_t *)arena;
    DQ_LAYER_BEGIN(0);
    dq_increment(input, first, 8);
    %(in_layer_0)s
    DQ_LAYER_END(0);
    DQ_LAYER_OUTPUT(0, first, 8);
    DQ_LAYER_BEGIN(1);
    dq_pairs(first, output, 4);
    dq_wait(%(turns)du);
    DQ_LAYER_END(1);
    DQ_LAYER_OUTPUT(1, output, 4);
    return %(status)d;
}
"""


def write_tiny_library(
    directory: Path,
    *,
    arena_bytes: str = "8",
    in_layer_0: str = "",
    turns: int = LOOP_TURNS,
    status: int = 0,
    weights: str = _WEIGHTS,
) -> Path:
    """Write the library; the arguments put faults into it. Returns the directory."""
    values = {"arena_bytes": arena_bytes, "in_layer_0": in_layer_0, "turns": turns, "status": status}
    for name, text in (
        ("tiny.h", _HEADER),
        ("tiny.c", _MODEL),
        ("dq_kernels.h", _KERNELS_HEADER),
        ("dq_kernels.c", _KERNELS),
    ):
        (directory / name).write_text(text % values if name.startswith("tiny") else text)
    (directory / "tiny_weights.c").write_text(weights)
    # The example program in the directory must not get in the way of the harness.
    (directory / "main.c").write_text("int main(void) { return 1; }\n")
    return directory


def tiny_samples(count: int) -> Int8Array:
    """Random samples (count, 8) that reach both saturations."""
    return np.random.default_rng(3).integers(-128, 128, (count, INPUT_SIZE)).astype(np.int8)


def tiny_layers(samples: Int8Array) -> tuple[Int8Array, Int8Array]:
    """What the library's two layers must give: (count, 8) and (count, 4)."""
    first = np.minimum(samples.astype(np.int64) + 1, 127)
    second = np.clip(first[:, 0::2] + first[:, 1::2], -128, 127)
    return first.astype(np.int8), second.astype(np.int8)
