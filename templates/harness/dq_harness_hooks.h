/* Included before the library when the harness follows it layer by layer (DQ_HARNESS_LAYERS).
 *
 * dq_kernels.h defines the hooks only if nobody did; these call into the harness.
 */
#ifndef DQ_HARNESS_HOOKS_H
#define DQ_HARNESS_HOOKS_H

#include <stdint.h>

void dq_harness_layer_begin(uint32_t layer);
void dq_harness_layer_end(uint32_t layer);
void dq_harness_layer_output(uint32_t layer, const void *data, uint32_t bytes);

#define DQ_LAYER_BEGIN(layer) dq_harness_layer_begin((uint32_t)(layer))
#define DQ_LAYER_END(layer) dq_harness_layer_end((uint32_t)(layer))
#define DQ_LAYER_OUTPUT(layer, data, bytes) \
    dq_harness_layer_output((uint32_t)(layer), (const void *)(data), (uint32_t)(bytes))

#endif
