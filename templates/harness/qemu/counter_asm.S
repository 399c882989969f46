/* The pieces whose instruction counts must be known. Armv6-M instructions only. */
    .syntax unified
    .thumb

/* uint32_t dq_spin_to_tick(volatile uint32_t *counter, uint32_t *spins)
 * Returns the counter right after it changed; *spins = turns of this 4-instruction loop. */
    .section .text.dq_spin_to_tick, "ax"
    .global dq_spin_to_tick
    .type dq_spin_to_tick, %function
    .thumb_func
    .balign 4
dq_spin_to_tick:
    push {r4, lr}
    ldr r2, [r0]
    movs r4, #0
1:  ldr r3, [r0]
    adds r4, #1
    cmp r3, r2
    beq 1b
    str r4, [r1]
    mov r0, r3
    pop {r4, pc}
    .size dq_spin_to_tick, . - dq_spin_to_tick

/* int dq_known_loop(void *turns, ...): 2 * turns + 1 instructions, turns >= 1. */
    .section .text.dq_known_loop, "ax"
    .global dq_known_loop
    .type dq_known_loop, %function
    .thumb_func
    .balign 4
dq_known_loop:
1:  subs r0, #1
    bne 1b
    bx lr
    .size dq_known_loop, . - dq_known_loop

/* Every exception but SysTick: hand the frame to dq_fault, on a fresh stack, since the old one may
 * be the reason. Faults never return, so nothing is lost. */
    .section .text.dq_fault_entry, "ax"
    .global dq_fault_entry
    .type dq_fault_entry, %function
    .thumb_func
    .balign 4
dq_fault_entry:
    mov r0, sp
    ldr r1, =dq_stack_top
    mov sp, r1
    mrs r1, ipsr
    bl dq_fault
    .ltorg
    .size dq_fault_entry, . - dq_fault_entry
