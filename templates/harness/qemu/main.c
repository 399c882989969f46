/* Runs the library on every sample of "samples.bin" and writes "outputs.bin", one at a time.
 *
 * What was measured goes to the console in lines "deployq: key numbers", numbers in hexadecimal:
 *   calibration <instructions> <ticks> <spins>   an interval of known length
 *   stack <bytes>                                stack used by the run of the first sample
 *   total <samples> <ticks> <spins>              all runs together
 *   layer <index> <ticks> <spins>                with DQ_HARNESS_LAYERS, see layers.c
 */
#include <stdint.h>
#include <string.h>

#include "counter.h"
#include "dq_harness_hooks.h"
#include "layers.h"
#include "dq_library.h"
#include "semihosting.h"
#include "stack.h"

/* A multiple of every arena alignment in use, so that the arena keeps its own behind the guard. */
enum { GUARD_BYTES = 32, GUARD_VALUE = 0xC5 };
typedef char dq_arena_alignment_divides_the_guard[GUARD_BYTES % (DQ_ARENA_ALIGN) == 0 ? 1 : -1];

static uint8_t arena_block[(DQ_ARENA_BYTES) + 2 * GUARD_BYTES] __attribute__((aligned(GUARD_BYTES)));

/* The interface promises no alignment for int8_t buffers, so they get the worst: odd addresses. */
static int8_t input_block[1 + (DQ_INPUT_SIZE)] __attribute__((aligned(8)));
static int8_t output_block[1 + (DQ_OUTPUT_SIZE)] __attribute__((aligned(8)));
static int8_t *const input = input_block + 1;
static int8_t *const output = output_block + 1;

static void print_measured(const char *key, uint64_t number, const dq_interval_t *interval)
{
    dq_print(key);
    dq_print_hex(number);
    dq_print_hex(interval->ticks);
    dq_print_hex(interval->spins);
    dq_print("\n");
}

static void calibrate(void)
{
    static const uint32_t turns[] = {1, 100000, 1000000, 333333};
    for (uint32_t i = 0; i < sizeof turns / sizeof turns[0]; i++) {
        dq_interval_t interval = {0, 0};
        dq_measure(dq_known_loop, (void *)(uintptr_t)turns[i], input, output, &interval);
        print_measured("deployq: calibration", 2ull * turns[i] + 1u, &interval);
    }
}

static void check_guards(void)
{
    for (uint32_t i = 0; i < GUARD_BYTES; i++) {
        if (arena_block[i] != GUARD_VALUE || arena_block[GUARD_BYTES + (DQ_ARENA_BYTES) + i] != GUARD_VALUE) {
            dq_fail("the library wrote outside its arena");
        }
    }
}

static void check_run(int status)
{
    if (status != 0) {
        dq_fail("the library returned an error code");
    }
    check_guards();
}

int main(void)
{
    uint8_t *const arena = arena_block + GUARD_BYTES;
    dq_interval_t total = {0, 0};
    uint32_t samples = 0, read_bytes;

    dq_counter_start();
    calibrate();
    memset(arena_block, GUARD_VALUE, sizeof arena_block);
    const dq_file_t sample_file = dq_open_read("samples.bin");
    const dq_file_t output_file = dq_open_write("outputs.bin");
#ifdef DQ_HARNESS_LAYERS
    dq_layers_start();
    DQ_LAYER_BEGIN(DQ_LAYER_COUNT);
    DQ_LAYER_END(DQ_LAYER_COUNT);
#endif
    while ((read_bytes = dq_read(sample_file, input, DQ_INPUT_SIZE)) == (DQ_INPUT_SIZE)) {
#ifndef DQ_HARNESS_LAYERS
        if (samples == 0) {
            uint32_t stack_bytes;
            check_run(dq_measure_stack(DQ_RUN, arena, input, output, &stack_bytes));
            dq_print("deployq: stack");
            dq_print_hex(stack_bytes);
            dq_print("\n");
        }
#endif
        check_run(dq_measure(DQ_RUN, arena, input, output, &total));
        dq_write(output_file, output, DQ_OUTPUT_SIZE);
        samples++;
    }
    if (read_bytes != 0) {
        dq_fail("samples.bin ends within a sample");
    }
    dq_close(output_file);
    dq_close(sample_file);
    print_measured("deployq: total", samples, &total);
#ifdef DQ_HARNESS_LAYERS
    dq_layers_report();
#endif
    return 0;
}
