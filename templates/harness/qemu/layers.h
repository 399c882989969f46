#ifndef DQ_LAYERS_H
#define DQ_LAYERS_H

/* Opens "layers.bin". */
void dq_layers_start(void);

/* Prints ticks and spins of every layer, summed over all samples. Last comes layer DQ_LAYER_COUNT,
 * which main.c runs empty: what the hooks themselves cost. */
void dq_layers_report(void);

#endif
