/* How much stack a call really uses: the free stack is painted before, and looked at after. */
#ifndef DQ_STACK_H
#define DQ_STACK_H

#include "counter.h"

/* Calls the function and stores in *bytes how far below its caller's frame the stack was written.
 * Interrupts are off meanwhile. Ends the program if the stack ran into the data below it. */
int dq_measure_stack(
    dq_function_t function, void *arena, const int8_t *input, int8_t *output, uint32_t *bytes);

#endif
