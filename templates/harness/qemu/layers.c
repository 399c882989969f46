/* The hooks of a library built with DQ_HARNESS_LAYERS: instructions and outputs of every layer. */
#include "layers.h"

#include "counter.h"
#include "dq_harness_hooks.h"
#include "dq_library.h"
#include "semihosting.h"

static dq_interval_t totals[DQ_LAYER_SLOTS];
static uint32_t calls[DQ_LAYER_SLOTS];
static dq_stamp_t begin;
static dq_file_t file;

/* Written to tell the emulator's profiler, which cannot read registers, what layer begins. */
static volatile uint8_t dq_layer_marks[DQ_LAYER_SLOTS];

void dq_harness_layer_begin(uint32_t layer)
{
    if (layer >= DQ_LAYER_SLOTS) {
        dq_fail("layer index out of range");
    }
    dq_layer_marks[layer] = 1;
    dq_stamp(&begin);
}

void dq_harness_layer_end(uint32_t layer)
{
    dq_stamp_t end;
    dq_stamp(&end);
    if (layer >= DQ_LAYER_SLOTS) {
        dq_fail("layer index out of range");
    }
    dq_add_interval(&totals[layer], &begin, &end);
    calls[layer]++;
}

void dq_harness_layer_output(uint32_t layer, const void *data, uint32_t bytes)
{
    const uint32_t header[2] = {layer, bytes};
    if (layer >= (uint32_t)(DQ_LAYER_COUNT)) {
        dq_fail("layer index out of range");
    }
    dq_write(file, header, sizeof header);
    dq_write(file, data, bytes);
}

void dq_layers_start(void)
{
    file = dq_open_write("layers.bin");
}

void dq_layers_report(void)
{
    for (uint32_t layer = 0; layer < DQ_LAYER_SLOTS; layer++) {
        dq_print("deployq: layer");
        dq_print_hex(layer);
        dq_print_hex(totals[layer].ticks);
        dq_print_hex(totals[layer].spins);
        dq_print_hex(calls[layer]);
        dq_print("\n");
    }
    dq_close(file);
}
