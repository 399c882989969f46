#include "counter.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SYST_CSR REGISTER(0xE000E010u)
#define SYST_RVR REGISTER(0xE000E014u)
#define SYST_CVR REGISTER(0xE000E018u)
#define SCB_ICSR REGISTER(0xE000ED04u)
#define ICSR_PENDSTSET (1u << 26)
#define CSR_ENABLE_WITH_INTERRUPT_ON_CORE_CLOCK 7u

#define RELOAD ((1u << DQ_COUNTER_BITS) - 1u)

static volatile uint32_t wraps;

void dq_counter_start(void)
{
    SYST_RVR = RELOAD;
    SYST_CVR = 0;
    SYST_CSR = CSR_ENABLE_WITH_INTERRUPT_ON_CORE_CLOCK;
}

void dq_counter_wrapped(void)
{
    wraps++;
}

void dq_stamp(dq_stamp_t *stamp)
{
    __asm__ volatile("cpsid i" ::: "memory");
    const uint32_t count = dq_spin_to_tick(&SYST_CVR, &stamp->spins);
    /* The counter reached 0 since interrupts are off. A large value was read after that; a small one
     * before it. */
    const uint32_t pending = SCB_ICSR & ICSR_PENDSTSET;
    const uint32_t missed = pending != 0 && (count == 0 || count > RELOAD / 2) ? 1u : 0u;
    stamp->ticks = ((uint64_t)(wraps + missed) << DQ_COUNTER_BITS) + ((0u - count) & RELOAD);
    __asm__ volatile("cpsie i" ::: "memory");
}

void dq_add_interval(dq_interval_t *total, const dq_stamp_t *begin, const dq_stamp_t *end)
{
    total->ticks += end->ticks - begin->ticks;
    total->spins += end->spins;
}

int dq_measure(dq_function_t function, void *arena, const int8_t *input, int8_t *output, dq_interval_t *total)
{
    dq_stamp_t begin, end;
    dq_stamp(&begin);
    const int status = function(arena, input, output);
    dq_stamp(&end);
    dq_add_interval(total, &begin, &end);
    return status;
}
