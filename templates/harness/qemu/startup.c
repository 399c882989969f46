/* Vector table, reset and fault handling for any Cortex-M. */
#include <stdint.h>

#include "counter.h"
#include "semihosting.h"

/* ID and control registers of the core, the same on every M-profile architecture. */
#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SCB_CCR REGISTER(0xE000ED14u)
#define SCB_CFSR REGISTER(0xE000ED28u)
#define SCB_CPACR REGISTER(0xE000ED88u)
#define CCR_UNALIGN_TRP (1u << 3)
#define CCR_DIV_0_TRP (1u << 4)

extern uint32_t dq_data_load[], dq_data_begin[], dq_data_end[], dq_bss_begin[], dq_bss_end[], dq_stack_top[];

int main(void);
void dq_reset(void);
void dq_fault_entry(void);
void dq_fault(const uint32_t *frame, uint32_t exception);

typedef void (*handler_t)(void);

typedef struct {
    uint32_t *stack_top;
    handler_t handlers[15];
} vector_table_t;

__attribute__((section(".vectors"), used)) static const vector_table_t vector_table = {
    dq_stack_top,
    {dq_reset, dq_fault_entry, dq_fault_entry, dq_fault_entry, dq_fault_entry, dq_fault_entry, dq_fault_entry,
     dq_fault_entry, dq_fault_entry, dq_fault_entry, dq_fault_entry, dq_fault_entry, dq_fault_entry,
     dq_fault_entry, dq_counter_wrapped},
};

static void enable_core_features(void)
{
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    SCB_CPACR |= 0xFu << 20; /* full access to CP10 and CP11: FPU and MVE */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
#if __ARM_ARCH > 6
    SCB_CCR |= CCR_DIV_0_TRP;
#elif defined(DQ_TRAP_UNALIGNED)
    SCB_CCR |= CCR_UNALIGN_TRP; /* a Cortex-M0+ always traps; the larger core standing in for it must be told */
#endif
}

void dq_reset(void)
{
    enable_core_features();
    const uint32_t *source = dq_data_load;
    for (uint32_t *word = dq_data_begin; word < dq_data_end; word++) {
        *word = *source++;
    }
    for (uint32_t *word = dq_bss_begin; word < dq_bss_end; word++) {
        *word = 0;
    }
    dq_exit(main());
}

/* `frame` is what the core pushed: r0-r3, r12, lr, pc, xpsr. dq_fault_entry has set up a new stack. */
void dq_fault(const uint32_t *frame, uint32_t exception)
{
    uint32_t status = 0;
#if __ARM_ARCH > 6
    status = SCB_CFSR;
#endif
    dq_print("deployq: fault");
    dq_print_hex(exception);
    dq_print_hex(frame[6]);
    dq_print_hex(frame[5]);
    dq_print_hex(status);
    dq_print("\n");
    dq_exit(3);
}
