/*
 * What programs of the guest without libc share: system calls, a little text, the start of a
 * process, and the ways to end the machine. Numbers come from the kernel's own headers.
 */

#include <asm/fcntl.h>
#include <asm/ioctls.h>
#include <asm/signal.h>
#include <asm/unistd.h>
#include <linux/reboot.h>
#include <linux/wait.h>

/* Here the monitor takes a byte as the status of the guest. */
enum { DEBUG_EXIT_PORT = 0xf4 };

static long system_call(long number, long a, long b, long c, long d, long e)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}

#define CALL(name, a, b, c, d, e) \
    system_call(__NR_##name, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))

static inline unsigned long length(const char *text)
{
    unsigned long count = 0;
    while (text[count])
        count++;
    return count;
}

static inline void say(const char *text)
{
    CALL(write, 1, text, length(text), 0, 0);
}

static inline void change_mask(long how, unsigned long signals)
{
    CALL(rt_sigprocmask, how, &signals, 0, sizeof signals, 0);
}

static inline void mount_basics(void)
{
    CALL(mount, "dev", "/dev", "devtmpfs", 0, 0);
    CALL(mount, "proc", "/proc", "proc", 0, 0);
    CALL(mount, "sys", "/sys", "sysfs", 0, 0);
}

/* Reads at most size - 1 bytes of a file, ends them with a zero and returns their number. */
static inline long read_text(const char *path, char *buffer, long size)
{
    long fd = CALL(open, path, O_RDONLY, 0, 0, 0);
    long count = fd < 0 ? 0 : CALL(read, fd, buffer, size - 1, 0, 0);
    if (fd >= 0)
        CALL(close, fd, 0, 0, 0, 0);
    if (count < 0)
        count = 0;
    buffer[count] = 0;
    return count;
}

static char line[4096 + 1] __attribute__((unused));

/* Unmounts what is mounted, the last first; what is in use stays, and is written out at least. */
static inline void unmount_all(void)
{
    long at = read_text("/proc/mounts", line, sizeof line);
    while (at > 0) {
        char *field;
        for (line[--at] = 0; at > 0 && line[at - 1] != '\n'; at--)
            ;
        for (field = line + at; *field && *field != ' '; field++)
            ;
        char *path = *field ? field + 1 : field;
        for (field = path; *field && *field != ' '; field++)
            ;
        *field = 0;
        if (length(path) > 1)
            CALL(umount2, path, 0, 0, 0, 0);
    }
    CALL(sync, 0, 0, 0, 0, 0);
}

/* Lets the console have all output before the machine ends. */
static inline void drain_console(void)
{
    CALL(ioctl, 1, TCSBRK, 1, 0, 0);
}

/* Ends the machine with a status; without the right to use the port it returns the error. */
static inline long report_status(unsigned char status)
{
    long error = CALL(ioperm, DEBUG_EXIT_PORT, 1, 1, 0, 0);
    if (error == 0)
        __asm__ volatile("outb %0, %1" : : "a"(status), "Nd"((unsigned short)DEBUG_EXIT_PORT));
    return error;
}

/* Ends the machine: LINUX_REBOOT_CMD_POWER_OFF and the like. Returns the error of a refusal. */
static inline long end_machine(long how)
{
    return CALL(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, how, 0, 0);
}

int main(int count, char **arguments, char **environment);

/* The stack begins with the argument count, the arguments and a null, the environment and a null. */
__asm__(".globl _start\n_start:\n\tmov (%rsp), %rdi\n\tlea 8(%rsp), %rsi\n"
        "\tlea 16(%rsp,%rdi,8), %rdx\n\tand $-16, %rsp\n\tcall main\n\thlt\n");
