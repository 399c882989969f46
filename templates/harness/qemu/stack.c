#include "stack.h"

#include "semihosting.h"

extern uint32_t dq_stack_limit[];

/* Unlikely as data; odd, so no address of an aligned object either. */
static const uint32_t paint = 0xD5A7C3E1u;

int dq_measure_stack(
    dq_function_t function, void *arena, const int8_t *input, int8_t *output, uint32_t *bytes)
{
    uint32_t *top;
    __asm__ volatile("mov %0, sp" : "=r"(top));
    /* volatile: this must not become a call of memset, which would use the very stack it paints. */
    for (volatile uint32_t *word = dq_stack_limit; word < top; word++) {
        *word = paint;
    }
    __asm__ volatile("cpsid i" ::: "memory");
    const int status = function(arena, input, output);
    __asm__ volatile("cpsie i" ::: "memory");
    const volatile uint32_t *lowest = dq_stack_limit;
    while (lowest < top && *lowest == paint) {
        lowest++;
    }
    if (lowest == dq_stack_limit) {
        dq_fail("the stack overflowed");
    }
    *bytes = (uint32_t)((const char *)top - (const char *)(uintptr_t)lowest);
    return status;
}
