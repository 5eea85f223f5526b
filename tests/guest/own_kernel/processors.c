/*
 * Starts all processors that the MADT names, and interrupts each of them. Says how many did what;
 * then, for each byte that comes on COM1, interrupts all of them once more.
 *
 * Intel SDM vol. 3 "Multiple-Processor (MP) Initialization", "Issuing Interprocessor Interrupts".
 * 32-bit code, as what a start-up IPI begins is of 16 bits.
 */

#include "machine.h"

enum { TRAMPOLINE = 0x1000, VECTOR = 0x40, ALL_BUT_SELF = 3 << 18, IDS = 256 };

static volatile uint32_t *const apic = (uint32_t *)0xfee00000;
static volatile uint32_t started, wrong_ids, taken[IDS];
static uint8_t ids[IDS];
static uint32_t count;
static uint64_t gates[VECTOR + 1];
char stacks[IDS * 1024] __attribute__((aligned(16)));
volatile uint32_t next_stack;

extern char trampoline[], trampoline_end[];

__asm__(
    ".data\n"
    "    .balign 8\n"
    "segments:\n"
    "    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff\n"
    "segments_register:\n"
    "    .word 23\n"
    "    .long segments\n"
    ".text\n"
    ".code16\n"
    "trampoline:\n"                          /* at 0x1000, which is 0x100:0 */
    "    cli\n"
    "    movw %cs, %ax\n"
    "    movw %ax, %ds\n"
    "    lgdtl trampoline_segments - trampoline\n"
    "    movl %cr0, %eax\n"
    "    orl $1, %eax\n"
    "    movl %eax, %cr0\n"
    "    ljmpl $8, $protected_mode\n"
    "trampoline_segments:\n"
    "    .word 23\n"
    "    .long segments\n"
    "trampoline_end:\n"
    ".code32\n"
    "protected_mode:\n"
    "    movl $16, %eax\n"
    "    movl %eax, %ds\n"
    "    movl %eax, %es\n"
    "    movl %eax, %ss\n"
    "    movl $1, %eax\n"
    "    lock xaddl %eax, next_stack\n"
    "    incl %eax\n"
    "    shll $10, %eax\n"
    "    leal stacks(%eax), %esp\n"
    "    call other_processor\n"
    "load_segments:\n"
    "    lgdt segments_register\n"
    "    ljmp $8, $1f\n"
    "1:  movl $16, %eax\n"
    "    movl %eax, %ds\n"
    "    movl %eax, %es\n"
    "    movl %eax, %ss\n"
    "    ret\n");

void load_segments(void);

static uint32_t own_id(void)
{
    return apic[0x20 / 4] >> 24;
}

/* Nothing goes back to where it was interrupted, which is one place; KVM's emulator has no IRET. */
__asm__(
    "interrupted:\n"
    "    call count_interrupt\n"
    "    addl $12, %esp\n"
    "idle:\n"
    "    sti\n"
    "    hlt\n"
    "    jmp idle\n");

void interrupted(void);
__attribute__((noreturn)) void idle(void);

void count_interrupt(void)
{
    taken[own_id()]++;
    apic[0xb0 / 4] = 0;
}

static void load_gates(void)
{
    struct __attribute__((packed)) { uint16_t limit; uint32_t base; } place;
    place.limit = sizeof gates - 1;
    place.base = (uint32_t)gates;
    __asm__ volatile("lidt %0" : : "m"(place));
    apic[0xf0 / 4] = 0x1ff;                  /* switched on */
}

static void cpuid(uint32_t leaf, uint32_t *a, uint32_t *b, uint32_t *d)
{
    uint32_t c = 0;
    __asm__ volatile("cpuid" : "=a"(*a), "=b"(*b), "+c"(c), "=d"(*d) : "a"(leaf));
}

/* CPUID must name a processor as its APIC does. */
static void check_id(void)
{
    uint32_t a, b, d, last;
    cpuid(0, &last, &b, &d);
    cpuid(1, &a, &b, &d);
    int right = b >> 24 == own_id();
    if (last >= 0xb) {
        cpuid(0xb, &a, &b, &d);
        right &= d == own_id();
    }
    if (!right)
        __atomic_add_fetch(&wrong_ids, 1, __ATOMIC_SEQ_CST);
}

void other_processor(void)
{
    load_gates();
    check_id();
    __atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
    idle();
}

static void read_madt(void)
{
    uint8_t *madt = acpi_table("APIC");
    for (uint32_t at = 44; at < get32(madt + 4); at += madt[at + 1])
        if (madt[at] == 0 && (madt[at + 4] & 1))
            ids[count++] = madt[at + 3];
}

static void command(uint32_t destination, uint32_t what)
{
    apic[0x310 / 4] = destination << 24;
    apic[0x300 / 4] = what;
    while (apic[0x300 / 4] & 1 << 12)
        ;
}

static void wait_for(uint32_t round)
{
    for (uint32_t index = 1; index < count; index++)
        while (taken[ids[index]] < round)
            ;
}

/* With x2APIC the command register is one MSR, and a destination has 32 bits. */
static uint32_t interrupt_by_x2apic(uint32_t round)
{
    uint32_t a, b, d, c = 0, sent = 0;
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "+c"(c), "=d"(d) : "a"(1));
    if (!(c & 1 << 21))
        return 0;
    __asm__ volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(0x1b));
    __asm__ volatile("wrmsr" : : "a"(a | 3 << 10), "d"(d), "c"(0x1b));
    for (uint32_t index = 1; index < count; index++, sent++)
        __asm__ volatile("wrmsr" : : "a"(1 << 14 | VECTOR), "d"((uint32_t)ids[index]), "c"(0x830));
    wait_for(round);
    return sent;
}

static void report(const char *what, uint32_t number)
{
    say_number(number);
    say(what);
}

void kernel(const char *command_line)
{
    (void)command_line;
    uint32_t handler = (uint32_t)interrupted;
    gates[VECTOR] = (uint64_t)(handler >> 16) << 48 | 0x8e000008ull << 16 | (handler & 0xffff);
    load_segments();
    load_gates();
    check_id();
    read_madt();
    for (char *from = trampoline, *to = (char *)TRAMPOLINE; from < trampoline_end;)
        *to++ = *from++;
    command(0, ALL_BUT_SELF | 0x4500);                   /* INIT */
    command(0, ALL_BUT_SELF | 0x4600 | TRAMPOLINE >> 12); /* start-up */
    while (started < count - 1)
        ;
    for (uint32_t index = 1; index < count; index++)
        command(ids[index], 0x4000 | VECTOR);
    wait_for(1);
    report(" processors, ", count);
    report(" started, ", started);
    report(" with another id in CPUID, ", wrong_ids);
    report(" reached by x2APIC\n", interrupt_by_x2apic(2));
    out8(COM1 + 2, 1);                       /* the FIFO */
    out8(COM1 + 4, 3);                       /* DTR, RTS: somebody listens */
    for (uint32_t round = 3;; round++) {
        while (!(in8(COM1 + 5) & 1))
            ;
        in8(COM1);
        for (uint32_t index = 1; index < count; index++)
            __asm__ volatile(
                "wrmsr" : : "a"(1 << 14 | VECTOR), "d"((uint32_t)ids[index]), "c"(0x830));
        wait_for(round);
        report(" interrupted again\n", count - 1);
    }
}
