/*
 * Runs a vCPU up to the first exit that needs Python. KVM api.rst "KVM_RUN".
 *
 * Where a guest's kernel is emulated, nearly all exits are its CLAC and STAC, which KVM's emulator
 * cannot execute, and system calls, which stop at a CLAC. Their emulation takes a few lines and,
 * here, neither the interpreter nor its lock. The twin in Python is vmm/x86/emulation, whose
 * syscall.py explains a half-done SYSCALL. This file leaves to the twin whatever is not certainly
 * the plain case: user code, single-stepping, and page faults at the kernel's entry that may be no
 * SYSCALL.
 *
 * Also waits until the vCPUs use no processor time: vmm/ending/halt_watch.py says why.
 */

#include <errno.h>
#include <linux/kvm.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

enum { CLAC = 0xca, STAC = 0xcb, LENGTH = 3 };
enum { PAGE_BYTES = 4096, MAX_REGIONS = 8 };
enum { PAGE_FAULT = 14, GATE_BYTES = 16, ENDBR64_BYTES = 4 };
enum { FETCH_BY_USER_OF_PRESENT_PAGE = 0x15 };

#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_SFMASK 0xc0000084u
#define EFER_LMA (1ull << 10)
#define RFLAGS_RESERVED (1ull << 1)
#define RFLAGS_TF (1ull << 8)
#define RFLAGS_IF (1ull << 9)
#define RFLAGS_RF (1ull << 16)
#define RFLAGS_AC (1ull << 18)

/* The guest's RAM where the host has it. */
struct ram {
    unsigned regions;
    struct region {
        uint64_t start, end;
        uint8_t *host;
    } region[MAX_REGIONS];
};

/* How many of each this file emulated. */
struct emulated {
    uint64_t clac, stac, syscall;
};

/* The words that a page fault pushed, from RSP upwards. */
struct frame {
    uint64_t error_code, rip, cs, rflags, rsp, ss;
};

/* The signs of a half-done SYSCALL, which another page fault at the kernel's entry lacks. */
struct entry {
    uint64_t star, lstar, sfmask;
    struct frame frame;
    uint8_t gate[GATE_BYTES];         /* of the page fault in the IDT */
    uint8_t prologue[ENDBR64_BYTES];  /* what the handler begins with */
};

/* Returns the last byte of the CLAC or STAC that stopped the vCPU, or 0 for anything else. */
static uint8_t stopped_at(const struct kvm_run *run)
{
    const uint8_t *instruction = (const uint8_t *)&run->internal.data[1]; /* its length first */
    if (run->exit_reason != KVM_EXIT_INTERNAL_ERROR ||
        run->internal.suberror != KVM_INTERNAL_ERROR_EMULATION || run->internal.ndata < 2 ||
        !(run->internal.data[0] & 1) || instruction[0] < LENGTH || instruction[1] != 0x0f ||
        instruction[2] != 0x01)
        return 0;
    return instruction[3] == CLAC || instruction[3] == STAC ? instruction[3] : 0;
}

/* Copies from guest memory by virtual address; returns whether all of it is mapped to RAM. */
static int read_virtual(int fd, const struct ram *ram, uint64_t address, void *to, uint64_t length)
{
    while (length) {
        uint64_t count = PAGE_BYTES - address % PAGE_BYTES;
        struct kvm_translation page = {.linear_address = address};
        const struct region *region = ram->region, *last = region + ram->regions;
        count = count < length ? count : length;
        if (ioctl(fd, KVM_TRANSLATE, &page) || !page.valid)
            return 0;
        uint64_t start = page.physical_address;
        while (region < last && !(start >= region->start && start < region->end))
            region++;
        if (region == last || count > region->end - start)
            return 0;
        memcpy(to, region->host + (start - region->start), count);
        to = (uint8_t *)to + count;
        address += count;
        length -= count;
    }
    return 1;
}

static int read_msrs(int fd, struct entry *entry)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry[3];
    } msrs = {.head.nmsrs = 3, .entry = {{.index = MSR_STAR}, {.index = MSR_LSTAR},
                                         {.index = MSR_SFMASK}}};
    if (ioctl(fd, KVM_GET_MSRS, &msrs) != 3)
        return 0;
    entry->star = msrs.entry[0].data;
    entry->lstar = msrs.entry[1].data;
    entry->sfmask = msrs.entry[2].data;
    return 1;
}

static uint64_t handler_of(const uint8_t *gate)
{
    uint64_t low, high;
    memcpy(&low, gate, sizeof low);
    memcpy(&high, gate + sizeof low, sizeof high);
    return (low & 0xffff) | (low >> 48) << 16 | high << 32;
}

/* Turns the page fault of a half-done SYSCALL into the system call; returns whether it was one. */
static int finish_syscall(void *registers, const void *system, const struct entry *entry)
{
    static const uint8_t endbr64[ENDBR64_BYTES] = {0xf3, 0x0f, 0x1e, 0xfa};
    struct kvm_regs *regs = registers;
    const struct kvm_sregs *sregs = system;
    uint64_t rflags = ((regs->r11 & ~entry->sfmask) | RFLAGS_RESERVED) & ~RFLAGS_RF;
    uint64_t clac = handler_of(entry->gate);
    if (!memcmp(entry->prologue, endbr64, sizeof endbr64))
        clac += sizeof endbr64;
    if (entry->frame.rip != entry->lstar || sregs->cr2 != entry->lstar || regs->rip != clac ||
        entry->frame.error_code != FETCH_BY_USER_OF_PRESENT_PAGE || (entry->frame.cs & 3) != 3 ||
        (entry->frame.ss & 3) != 3 || !(entry->sfmask & RFLAGS_IF) ||
        (entry->frame.rflags & ~RFLAGS_RF) != rflags ||
        sregs->cs.selector != (entry->star >> 32 & 0xfffc))
        return 0;
    regs->rip = entry->lstar;
    regs->rsp = entry->frame.rsp;
    regs->rflags = rflags;
    regs->r11 |= RFLAGS_RF;
    return 1;
}

static int emulate(int fd, const struct kvm_run *run, const struct ram *ram,
                    struct emulated *emulated)
{
    uint8_t which = stopped_at(run);
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct entry entry;
    uint64_t *count = which == CLAC ? &emulated->clac : &emulated->stac;
    if (!which || ioctl(fd, KVM_GET_REGS, &regs) || ioctl(fd, KVM_GET_SREGS, &sregs))
        return 0;
    int is_64_bit = sregs.efer & EFER_LMA && sregs.cs.l;
    if (sregs.ss.dpl != 0 || regs.rflags & RFLAGS_TF)
        return 0;
    int may_be_syscall = which == CLAC && is_64_bit;
    if (may_be_syscall && !read_msrs(fd, &entry))
        return 0;
    may_be_syscall = may_be_syscall && sregs.cr2 == entry.lstar;
    if (may_be_syscall && !read_virtual(fd, ram, regs.rsp, &entry.frame, sizeof entry.frame))
        return 0;
    if (may_be_syscall && entry.frame.rip == entry.lstar) {
        uint64_t gate = sregs.idt.base + PAGE_FAULT * GATE_BYTES;
        if (!read_virtual(fd, ram, gate, entry.gate, sizeof entry.gate) ||
            !read_virtual(fd, ram, handler_of(entry.gate), entry.prologue, sizeof entry.prologue) ||
            !finish_syscall(&regs, &sregs, &entry))
            return 0;
        count = &emulated->syscall;
    } else {
        regs.rip += LENGTH;
        regs.rflags &= ~(RFLAGS_RF | RFLAGS_AC);
        if (which == STAC)
            regs.rflags |= RFLAGS_AC;
    }
    if (ioctl(fd, KVM_SET_REGS, &regs))
        return 0;
    *count += 1;
    return 1;
}

/* Returns 0 after an exit for Python, which `run` describes, or minus the errno of KVM_RUN. */
static int run_vcpu(int fd, const void *run_area, const struct ram *ram,
                    struct emulated *emulated)
{
    const struct kvm_run *run = run_area;
    do {
        if (ioctl(fd, KVM_RUN, 0) < 0)
            return -errno;
    } while (emulate(fd, run, ram, emulated));
    return 0;
}

/* Returns the sum of all clocks in nanoseconds; the clock of an ended thread counts nothing. */
static uint64_t used(const int32_t *clocks, unsigned count)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < count; i++) {
        struct timespec time;
        if (clock_gettime(clocks[i], &time) == 0)
            sum += time.tv_sec * 1000000000ull + time.tv_nsec;
    }
    return sum;
}

/* Waits until no clock has moved for an interval; returns 0 if `stop_fd` is readable first. */
static int wait_idle(const int32_t *clocks, unsigned count, int interval_ms, int stop_fd)
{
    struct pollfd stop = {stop_fd, POLLIN, 0};
    uint64_t before, now = used(clocks, count);
    int ready;
    do {
        before = now;
        ready = poll(&stop, 1, interval_ms);
        now = used(clocks, count);
    } while (ready < 0 || (!ready && now != before));
    return !ready;
}
