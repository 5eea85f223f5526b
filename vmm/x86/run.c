/*
 * Running a vCPU up to the first exit that needs Python. KVM api.rst "KVM_RUN".
 *
 * Where a guest's kernel is emulated, nearly nine of ten exits are its CLAC and STAC, which KVM's
 * emulator cannot execute; completing them takes a few lines, and here neither the interpreter nor
 * its lock. The twin in Python is vmm/x86/completion; what is not certainly the plain case is left
 * to it: user code, single-stepping, and a CLAC that may belong to a half-done SYSCALL, at which CR2
 * is MSR_LSTAR (see completion/syscall.py).
 */

#include <errno.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <sys/ioctl.h>

enum { CLAC = 0xca, STAC = 0xcb, LENGTH = 3 };

#define MSR_LSTAR 0xc0000082u
#define EFER_LMA (1ull << 10)
#define RFLAGS_TF (1ull << 8)
#define RFLAGS_RF (1ull << 16)
#define RFLAGS_AC (1ull << 18)

/* How many of each were completed here. */
struct completed {
    uint64_t clac, stac;
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

/* Returns whether CR2 rules out that a CLAC is the first instruction after a half-done SYSCALL. */
static int is_no_syscall(int fd, uint64_t cr2)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } msrs = {.head.nmsrs = 1, .entry.index = MSR_LSTAR};
    return ioctl(fd, KVM_GET_MSRS, &msrs) == 1 && msrs.entry.data != cr2;
}

static int complete(int fd, const struct kvm_run *run, struct completed *completed)
{
    uint8_t which = stopped_at(run);
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    if (!which || ioctl(fd, KVM_GET_REGS, &regs) || ioctl(fd, KVM_GET_SREGS, &sregs))
        return 0;
    int is_64_bit = sregs.efer & EFER_LMA && sregs.cs.l;
    if (sregs.ss.dpl != 0 || regs.rflags & RFLAGS_TF)
        return 0;
    if (which == CLAC && is_64_bit && !is_no_syscall(fd, sregs.cr2))
        return 0;
    regs.rip += LENGTH;
    regs.rflags &= ~(RFLAGS_RF | RFLAGS_AC);
    if (which == STAC)
        regs.rflags |= RFLAGS_AC;
    if (ioctl(fd, KVM_SET_REGS, &regs))
        return 0;
    *(which == CLAC ? &completed->clac : &completed->stac) += 1;
    return 1;
}

/* Returns 0 after an exit for Python, which `run` describes, or minus the errno of KVM_RUN. */
static int run_vcpu(int fd, const void *run_area, struct completed *completed)
{
    const struct kvm_run *run = run_area;
    do {
        if (ioctl(fd, KVM_RUN, 0) < 0)
            return -errno;
    } while (complete(fd, run, completed));
    return 0;
}
