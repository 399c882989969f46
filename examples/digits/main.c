/*
 * Firmware for the digits example: recognise one image of a handwritten digit.
 *
 * On a PC, after `deployq build` in this directory:
 *   cc -Ideployq-out/firmware main.c deployq-out/firmware/digits.c deployq-out/firmware/digits_weights.c \
 *      deployq-out/firmware/dq_kernels.c -o digits && ./digits
 */
#include <stdio.h>

#include "digits.h"

/* A five of the test part, as an 8-bit camera would give it: 0 is background, 255 is ink. */
static const uint8_t image[DIGITS_INPUT_SIZE] = {
      0,  16, 239, 255, 255, 255,  80,   0,
      0, 112, 255, 255, 191, 143,  16,   0,
      0, 207, 255,  48,   0,   0,   0,   0,
      0,  80, 255, 175,   0,   0,   0,   0,
      0,   0, 159, 255,  96,   0,   0,   0,
      0,   0,  16, 239, 175,   0,   0,   0,
      0,  16,  64, 223, 191,   0,   0,   0,
      0,  48, 239, 255,  96,   0,   0,   0,
};

/* The arena must be aligned to DIGITS_ARENA_ALIGN bytes; here an array of 64-bit words sees to it. */
static int64_t arena[(DIGITS_ARENA_BYTES + 7) / 8];

int main(void)
{
    int8_t input[DIGITS_INPUT_SIZE];
    int8_t output[DIGITS_OUTPUT_SIZE];

    for (int i = 0; i < DIGITS_INPUT_SIZE; ++i) {
        input[i] = (int8_t)(image[i] - 128); /* the whole preprocessing */
    }

    const int status = digits_run(arena, input, output);
    if (status != DIGITS_OK) {
        printf("digits_run failed: %d\n", status);
        return 1;
    }

    int best = 0;
    for (int i = 1; i < DIGITS_OUTPUT_SIZE; ++i) {
        if (output[i] > output[best]) {
            best = i;
        }
    }
    printf("digit %d\n", best);
    return 0;
}
