/* A plugin of qemu-system-arm: how often every translated block ran, and how often it was left by a jump,
 * separately for each layer of the library.
 *
 *   -plugin ./profile.so,out=FILE,slots=N,marks=ADDRESS,begin=ADDRESS,begin_end=ADDRESS,end=ADDRESS
 *
 * The library runs in the harness with DQ_HARNESS_LAYERS. `begin` and `end` are the hooks around a layer. A
 * plugin cannot read registers, so dq_harness_layer_begin, from `begin` to `begin_end`, stores to
 * marks[layer], which tells the layer by the address. FILE gets one line per block and layer:
 *
 *   layer, first address (hexadecimal), instructions, executions, jumps
 *
 * Debian does not package qemu-plugin.h: what is used of it is declared here. Pointers to the plugin's own
 * data are all that crosses the interface, so versions 1 to 4 of it are alike in these functions.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { QEMU_PLUGIN_CB_NO_REGS = 0 };
enum { QEMU_PLUGIN_MEM_W = 2 };
typedef uint64_t qemu_plugin_id_t;
typedef void (*block_callback_t)(unsigned int cpu, void *data);
typedef void (*memory_callback_t)(unsigned int cpu, uint32_t info, uint64_t address, void *data);

uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *block);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *instruction);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *instruction);
void qemu_plugin_register_vcpu_tb_trans_cb(
    qemu_plugin_id_t id, void (*callback)(qemu_plugin_id_t id, struct qemu_plugin_tb *block));
void qemu_plugin_register_vcpu_tb_exec_cb(
    struct qemu_plugin_tb *block, block_callback_t callback, int flags, void *data);
void qemu_plugin_register_vcpu_mem_cb(
    struct qemu_plugin_insn *instruction, memory_callback_t callback, int flags, int access, void *data);
void qemu_plugin_register_atexit_cb(
    qemu_plugin_id_t id, void (*callback)(qemu_plugin_id_t id, void *data), void *data);

int qemu_plugin_version = DQ_PLUGIN_VERSION;
int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int count, char **arguments);

/* `executions` and `jumps` have an element per slot and a last one for everything outside of layers. */
typedef struct block {
    uint64_t start;
    uint64_t end;
    size_t instructions;
    uint64_t *executions;
    uint64_t *jumps;
    struct block *next;
} block_t;

static char *out;
static uint64_t slots, marks, begin, begin_end, end;
static block_t *blocks;
static block_t *previous;
static uint64_t layer;

static void *zeroed(size_t count, size_t size)
{
    void *const memory = calloc(count, size);
    if (memory == NULL) {
        fputs("profile.so: out of memory\n", stderr);
        exit(4);
    }
    return memory;
}

static void on_execution(unsigned int cpu, void *data)
{
    block_t *const block = data;
    (void)cpu;
    if (previous != NULL && block->start != previous->end) {
        previous->jumps[layer]++;
    }
    previous = block;
    if (block->start == end) {
        layer = slots;
    }
    block->executions[layer]++;
}

static void on_store(unsigned int cpu, uint32_t info, uint64_t address, void *data)
{
    (void)cpu;
    (void)info;
    (void)data;
    if (address >= marks && address < marks + slots) {
        layer = address - marks;
    }
}

/* The block with that place and length: code may be translated more than once. */
static block_t *find_block(uint64_t start, size_t instructions)
{
    block_t *block = blocks;
    while (block != NULL && (block->start != start || block->instructions != instructions)) {
        block = block->next;
    }
    if (block == NULL) {
        block = zeroed(1, sizeof *block);
        block->start = start;
        block->instructions = instructions;
        block->executions = zeroed(slots + 1, sizeof *block->executions);
        block->jumps = zeroed(slots + 1, sizeof *block->jumps);
        block->next = blocks;
        blocks = block;
    }
    return block;
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *translated)
{
    const size_t count = qemu_plugin_tb_n_insns(translated);
    const uint64_t start = qemu_plugin_tb_vaddr(translated);
    const struct qemu_plugin_insn *const last = qemu_plugin_tb_get_insn(translated, count - 1);
    block_t *const block = find_block(start, count);
    (void)id;
    block->end = qemu_plugin_insn_vaddr(last) + qemu_plugin_insn_size(last);
    qemu_plugin_register_vcpu_tb_exec_cb(translated, on_execution, QEMU_PLUGIN_CB_NO_REGS, block);
    for (size_t i = 0; start >= begin && start < begin_end && i < count; i++) {
        struct qemu_plugin_insn *const instruction = qemu_plugin_tb_get_insn(translated, i);
        qemu_plugin_register_vcpu_mem_cb(
            instruction, on_store, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_W, NULL);
    }
}

static void on_exit(qemu_plugin_id_t id, void *data)
{
    FILE *const file = fopen(out, "w");
    (void)id;
    (void)data;
    if (file == NULL) {
        perror(out);
        return;
    }
    for (const block_t *block = blocks; block != NULL; block = block->next) {
        for (uint64_t slot = 0; slot < slots; slot++) {
            if (block->executions[slot] != 0) {
                fprintf(
                    file, "%" PRIu64 " %" PRIx64 " %zu %" PRIu64 " %" PRIu64 "\n", slot, block->start,
                    block->instructions, block->executions[slot], block->jumps[slot]);
            }
        }
    }
    fclose(file);
}

/* The value of an argument "name=value", NULL where it is another one. */
static const char *value_of(const char *argument, const char *name)
{
    const size_t length = strlen(name);
    return strncmp(argument, name, length) == 0 && argument[length] == '=' ? argument + length + 1 : NULL;
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int count, char **arguments)
{
    static const char *const names[] = {"slots", "marks", "begin", "begin_end", "end"};
    uint64_t *const values[] = {&slots, &marks, &begin, &begin_end, &end};
    (void)info;
    for (int i = 0; i < count; i++) {
        const char *value = value_of(arguments[i], "out");
        if (value != NULL) { /* a copy: the arguments do not live long */
            out = zeroed(strlen(value) + 1, 1);
            memcpy(out, value, strlen(value));
        }
        for (size_t j = 0; j < sizeof names / sizeof names[0]; j++) {
            value = value_of(arguments[i], names[j]);
            if (value != NULL) {
                *values[j] = strtoull(value, NULL, 0);
            }
        }
    }
    if (out == NULL || slots == 0) {
        fputs("profile.so: arguments are missing\n", stderr);
        return 1;
    }
    layer = slots;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, on_exit, NULL);
    return 0;
}
