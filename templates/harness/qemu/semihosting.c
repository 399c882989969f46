#include "semihosting.h"

#include <string.h>

enum {
    SYS_OPEN = 0x01,
    SYS_CLOSE = 0x02,
    SYS_WRITE0 = 0x04,
    SYS_WRITE = 0x05,
    SYS_READ = 0x06,
    SYS_EXIT_EXTENDED = 0x20,
};

enum { OPEN_READ_BINARY = 1, OPEN_WRITE_BINARY = 5 };

static const uint32_t application_exit = 0x20026; /* ADP_Stopped_ApplicationExit */

static uint32_t call(uint32_t operation, const void *argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static uint32_t word(const void *pointer)
{
    return (uint32_t)(uintptr_t)pointer;
}

static dq_file_t open_file(const char *name, uint32_t mode)
{
    const uint32_t arguments[3] = {word(name), mode, (uint32_t)strlen(name)};
    const dq_file_t file = {call(SYS_OPEN, arguments)};
    if (file.handle == UINT32_MAX) {
        dq_fail("cannot open a file of the harness");
    }
    return file;
}

dq_file_t dq_open_read(const char *name)
{
    return open_file(name, OPEN_READ_BINARY);
}

dq_file_t dq_open_write(const char *name)
{
    return open_file(name, OPEN_WRITE_BINARY);
}

uint32_t dq_read(dq_file_t file, void *data, uint32_t bytes)
{
    const uint32_t arguments[3] = {file.handle, word(data), bytes};
    const uint32_t missing = call(SYS_READ, arguments);
    if (missing > bytes) {
        dq_fail("cannot read a file of the harness");
    }
    return bytes - missing;
}

void dq_write(dq_file_t file, const void *data, uint32_t bytes)
{
    const uint32_t arguments[3] = {file.handle, word(data), bytes};
    if (call(SYS_WRITE, arguments) != 0) {
        dq_fail("cannot write a file of the harness");
    }
}

void dq_close(dq_file_t file)
{
    if (call(SYS_CLOSE, &file.handle) != 0) {
        dq_fail("cannot close a file of the harness");
    }
}

void dq_print(const char *text)
{
    call(SYS_WRITE0, text);
}

void dq_print_hex(uint64_t value)
{
    static const char digits[] = "0123456789abcdef";
    char text[18] = " ";
    for (uint32_t i = 0; i < 16; i++) {
        text[1 + i] = digits[(value >> (60 - 4 * i)) & 15u];
    }
    text[17] = '\0';
    dq_print(text);
}

void dq_exit(int status)
{
    const uint32_t arguments[2] = {application_exit, (uint32_t)status};
    for (;;) {
        call(SYS_EXIT_EXTENDED, arguments);
    }
}

void dq_fail(const char *problem)
{
    dq_print("deployq: error ");
    dq_print(problem);
    dq_print("\n");
    dq_exit(2);
}
