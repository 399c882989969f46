/* Counts instructions with SysTick.
 *
 * Under `-icount shift=0` the emulator advances its clock by 1 ns per instruction, and SysTick by one
 * tick per some tens of instructions. To resolve less than a tick, a time stamp spins until the next
 * tick and counts the turns: the instructions from its beginning to the tick are then known too.
 *
 *     instructions between two stamps = ticks * instructions_per_tick - 4 * spins - overhead
 *
 * where `spins` belongs to the second stamp. The firmware reports ticks and spins; the rate and the
 * overhead are fitted on the host from intervals of known length (dq_known_loop).
 */
#ifndef DQ_COUNTER_H
#define DQ_COUNTER_H

#include <stdint.h>

/* Width of the counter: 24 bits on hardware; smaller only to test how it wraps. */
#ifndef DQ_COUNTER_BITS
#define DQ_COUNTER_BITS 24
#endif

typedef struct {
    uint64_t ticks;
    uint32_t spins;
} dq_stamp_t;

typedef struct {
    uint64_t ticks;
    uint64_t spins;
} dq_interval_t;

/* The type of the library's entry point; what is measured is a function of this type. */
typedef int (*dq_function_t)(void *arena, const int8_t *input, int8_t *output);

void dq_counter_start(void);
void dq_counter_wrapped(void); /* SysTick interrupt handler */
void dq_stamp(dq_stamp_t *stamp);
void dq_add_interval(dq_interval_t *total, const dq_stamp_t *begin, const dq_stamp_t *end);

/* Calls the function once, adds the interval to *total, returns what the function returned. */
int dq_measure(dq_function_t function, void *arena, const int8_t *input, int8_t *output, dq_interval_t *total);

/* In counter_asm.S. */
uint32_t dq_spin_to_tick(volatile uint32_t *counter, uint32_t *spins);
int dq_known_loop(void *turns, const int8_t *input, int8_t *output); /* exactly 2 * turns + 1 instructions */

#endif
