/* Runs the library on every sample of "samples.bin" and writes "outputs.bin".
 *
 * Both files are plain int8 records. With DQ_HARNESS_LAYERS, "layers.bin" receives one record per
 * layer and sample: layer index and byte count (native uint32), then the bytes.
 *
 * Every buffer is a heap block of exactly the size the library declares, so that AddressSanitizer
 * sees an access one byte outside. Without the sanitizer, guard bytes around the arena do that.
 * The interface promises no alignment for input and output: they start at odd addresses, so that
 * UndefinedBehaviorSanitizer sees a wider access.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dq_library.h"

enum { GUARD_VALUE = 0xC5 };
typedef char dq_arena_alignment_divides_the_block[DQ_BLOCK_ALIGN % (DQ_ARENA_ALIGN) == 0 ? 1 : -1];

static void fail(const char *problem, long sample)
{
    fprintf(stderr, "deployq: error %s (sample %ld)\n", problem, sample);
    exit(2);
}

static FILE *open_file(const char *name, const char *mode)
{
    FILE *file = fopen(name, mode);
    if (file == NULL) {
        fail("cannot open a file of the harness", -1);
    }
    return file;
}

static void write_bytes(FILE *file, const void *data, size_t bytes)
{
    if (fwrite(data, 1, bytes, file) != bytes) {
        fail("cannot write a file of the harness", -1);
    }
}

static void *allocate(size_t bytes)
{
    void *block = malloc(bytes);
    if (block == NULL) {
        fail("out of memory", -1);
    }
    return block;
}

#ifdef DQ_HARNESS_LAYERS
#include "dq_harness_hooks.h"

static FILE *layer_file;

void dq_harness_layer_begin(uint32_t layer)
{
    if (layer >= (uint32_t)(DQ_LAYER_COUNT)) {
        fail("layer index out of range", (long)layer);
    }
}

void dq_harness_layer_end(uint32_t layer)
{
    dq_harness_layer_begin(layer);
}

void dq_harness_layer_output(uint32_t layer, const void *data, uint32_t bytes)
{
    write_bytes(layer_file, &layer, sizeof layer);
    write_bytes(layer_file, &bytes, sizeof bytes);
    write_bytes(layer_file, data, bytes);
}
#endif

static void check_guards(const unsigned char *block, long sample)
{
    for (size_t i = 0; i != DQ_GUARD_BYTES; i++) {
        if (block[i] != GUARD_VALUE || block[DQ_GUARD_BYTES + (size_t)(DQ_ARENA_BYTES) + i] != GUARD_VALUE) {
            fail("the library wrote outside its arena", sample);
        }
    }
}

static void run_all(FILE *samples, FILE *outputs)
{
    const size_t input_bytes = (size_t)(DQ_INPUT_SIZE), output_bytes = (size_t)(DQ_OUTPUT_SIZE);
    const size_t arena_bytes = (size_t)(DQ_ARENA_BYTES);
    int8_t *const input_block = allocate(1 + input_bytes), *const input = input_block + 1;
    int8_t *const output_block = allocate(1 + output_bytes), *const output = output_block + 1;
    int8_t *const input_copy = allocate(input_bytes);
    void *block = NULL;
    if (posix_memalign(&block, DQ_BLOCK_ALIGN, arena_bytes + 2u * DQ_GUARD_BYTES) != 0) {
        fail("out of memory", -1);
    }
    unsigned char *arena = (unsigned char *)block + DQ_GUARD_BYTES;
    memset(block, GUARD_VALUE, arena_bytes + 2u * DQ_GUARD_BYTES);

    for (long sample = 0; fread(input, 1, input_bytes, samples) == input_bytes; sample++) {
        memcpy(input_copy, input, input_bytes);
        /* Other garbage each time: a result that depends on it shows as a difference. */
        memset(arena, (int)(sample * 73 + 41) & 0xFF, arena_bytes);
        memset(output, (int)(sample * 57 + 85) & 0xFF, output_bytes);
        if (DQ_RUN(arena, input, output) != 0) {
            fail("the library returned an error code", sample);
        }
        check_guards(block, sample);
        if (memcmp(input, input_copy, input_bytes) != 0) {
            fail("the library changed its input", sample);
        }
        write_bytes(outputs, output, output_bytes);
    }
    free(block);
    free(input_copy);
    free(output_block);
    free(input_block);
}

int main(void)
{
    FILE *samples = open_file("samples.bin", "rb");
    FILE *outputs = open_file("outputs.bin", "wb");
#ifdef DQ_HARNESS_LAYERS
    layer_file = open_file("layers.bin", "wb");
#endif
    run_all(samples, outputs);
    fclose(samples);
    if (fclose(outputs) != 0) {
        fail("cannot write outputs.bin", -1);
    }
#ifdef DQ_HARNESS_LAYERS
    if (fclose(layer_file) != 0) {
        fail("cannot write layers.bin", -1);
    }
#endif
    return 0;
}
