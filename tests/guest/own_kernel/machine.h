/*
 * What the kernels here share: ports, text on COM1, the two ends of a machine, ACPI's tables, and
 * the ways in. As 64-bit code they are a plain ELF, entered at start() with the start info in rdi; as
 * 32-bit code they have a Multiboot header.
 */

#include <stdint.h>

enum { COM1 = 0x3f8, EXIT_PORT = 0xf4 };

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint32_t in32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline void say(const char *text)
{
    while (*text)
        out8(COM1, *text++);
}

static inline void say_number(uint32_t value)
{
    if (value >= 10)
        say_number(value / 10);
    out8(COM1, '0' + value % 10);
}

/* Ends the machine with a status. */
static inline void end(uint8_t status)
{
    for (;;)
        out8(EXIT_PORT, status);
}

static inline int same(const void *a, const void *b, uint32_t length)
{
    const char *one = a, *two = b;
    while (length--)
        if (*one++ != *two++)
            return 0;
    return 1;
}

static inline uint32_t get32(const void *place)
{
    return *(const volatile uint32_t *)place;
}

static inline uint8_t *pointer_at(const void *place)
{
    return (uint8_t *)(uintptr_t) * (const uint64_t *)place;
}

/* The ACPI table with that signature. */
static inline uint8_t *acpi_table(const char *signature)
{
    uint8_t *root = (uint8_t *)0xe0000;
    while (!same(root, "RSD PTR ", 8))
        if ((root += 16) == (uint8_t *)0x100000)
            return 0;
    uint8_t *xsdt = pointer_at(root + 24);
    for (uint32_t at = 36; at < get32(xsdt + 4); at += 8)
        if (same(pointer_at(xsdt + at), signature, 4))
            return pointer_at(xsdt + at);
    return 0;
}

/* Switches the machine off: soft-off with SLP_EN, into the sleep control register of the FADT. */
static inline void power_off(void)
{
    out8(get32(acpi_table("FACP") + 248), 5 << 2 | 0x20);
    end(1);
}

void kernel(const char *command_line);

#ifdef __x86_64__
/* struct hvm_start_info, as far as it is read. */
struct start_info {
    uint32_t magic, version, flags, module_count;
    uint64_t modules, command_line;
};

void start(const struct start_info *info)
{
    kernel((const char *)info->command_line);
}
#else
__asm__(
    ".section .multiboot, \"a\"\n"
    "    .balign 4\n"
    "    .long 0x1badb002, 0, -0x1badb002\n"
    ".section .bss.stack, \"aw\", @nobits\n"
    "    .balign 16\n"
    "    .skip 16384\n"
    "stack:\n"
    ".text\n"
    ".globl start\n"
    "start:\n"
    "    movl $stack - 12, %esp\n"
    "    cmpl $0x2badb002, %eax\n"
    "    jne 1f\n"
    "    pushl 16(%ebx)\n"              /* the command line */
    "    call kernel\n"
    "1:  hlt\n"
    "    jmp 1b\n");
#endif
