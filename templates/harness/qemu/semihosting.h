/* Semihosting: the host's files, console and exit status, through the emulator.
 *
 * Arm, "Semihosting for AArch32 and AArch64", release 2.0. Every function ends the program with an
 * error when the host refuses.
 */
#ifndef DQ_SEMIHOSTING_H
#define DQ_SEMIHOSTING_H

#include <stdint.h>

typedef struct {
    uint32_t handle;
} dq_file_t;

dq_file_t dq_open_read(const char *name);
dq_file_t dq_open_write(const char *name);

/* Bytes read: `bytes`, or fewer at the end of the file. */
uint32_t dq_read(dq_file_t file, void *data, uint32_t bytes);
void dq_write(dq_file_t file, const void *data, uint32_t bytes);
void dq_close(dq_file_t file);

void dq_print(const char *text);
/* A blank and the number in hexadecimal. */
void dq_print_hex(uint64_t value);

void dq_exit(int status) __attribute__((noreturn));
void dq_fail(const char *problem) __attribute__((noreturn));

#endif
