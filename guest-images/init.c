/*
 * The first process of the default guest, as a program of a few kilobytes without libc.
 *
 * Does what the script "init" beside it does, which serves where there is no compiler, and reports
 * the exit status, for which the script needs /dev/port. On hosts without hardware virtualization
 * this is worth seconds: there each fork and exec of BusyBox executes more than a million kernel
 * instructions, and here only the command itself needs one.
 */

#include "freestanding.h"
#include "shares.h"

#include "modules.h"

static char console[80] = "/dev/";

/* Ours, then what the kernel gives: HOME, TERM, and each NAME=value of its command line. */
static char *environment[64] = {"PATH=/sbin:/usr/sbin:/bin:/usr/bin", "PS1=guest:\\w\\$ "};

/* Returns what follows " -- " on the kernel command line, 0 when nothing does. */
static char *command_text(void)
{
    long count = read_text("/proc/cmdline", line, sizeof line);
    if (count && line[count - 1] == '\n')
        line[--count] = 0;
    for (long at = 0; at + 4 < count; at++)
        if (line[at] == ' ' && line[at + 1] == '-' && line[at + 2] == '-' && line[at + 3] == ' ')
            return line + at + 4;
    return 0;
}

/* Makes the terminal behind /dev/console, which itself cannot be one, the controlling one. */
static void take_terminal(void)
{
    long prefix = length(console), count, start;
    CALL(setsid, 0, 0, 0, 0, 0);
    count = read_text("/sys/class/tty/console/active", line, sizeof console - prefix);
    while (count && line[count - 1] == '\n')
        line[--count] = 0;
    for (start = count; start && line[start - 1] != ' '; start--)
        ;
    for (long at = start; at <= count; at++)
        console[prefix + at - start] = line[at];
    long fd = count ? CALL(open, console, O_RDWR, 0, 0, 0) : -1;
    if (fd < 0)
        return;
    CALL(ioctl, fd, TIOCSCTTY, 1, 0, 0);
    for (long standard = 0; standard < 3; standard++)
        CALL(dup2, fd, standard, 0, 0, 0);
    if (fd > 2)
        CALL(close, fd, 0, 0, 0, 0);
}

static long start(char **arguments, unsigned long signals)
{
    long child = CALL(fork, 0, 0, 0, 0, 0);
    if (child)
        return child;
    change_mask(SIG_UNBLOCK, signals);
    take_terminal();
    CALL(execve, "/bin/sh", arguments, environment, 0, 0);
    say("init: /bin/sh: cannot be executed\n");
    CALL(exit_group, 127, 0, 0, 0, 0);
    return 0;
}

/* Waits until the child has ended (returns 0, sets the status) or a signal says how to end. */
static long wait_for_end(long child, unsigned long signals, int *status)
{
    for (;;) {
        long signal = CALL(rt_sigtimedwait, &signals, 0, 0, sizeof signals, 0);
        long ended;
        if (signal == SIGUSR2)
            return LINUX_REBOOT_CMD_POWER_OFF;
        if (signal == SIGUSR1)
            return LINUX_REBOOT_CMD_HALT;
        if (signal == SIGTERM || signal == SIGINT)
            return LINUX_REBOOT_CMD_RESTART;
        while ((ended = CALL(wait4, -1, status, WNOHANG, 0, 0)) > 0)
            if (ended == child)
                return 0;
    }
}

/* Without the right to use the port nothing is written: the machine then powers off. */
static void report(int status)
{
    int signal = status & 0x7f;
    report_status((unsigned char)(signal ? 128 + signal : status >> 8));
}

/* Less what is for us, which is returned. */
static char *add_to_environment(char **kernels)
{
    static const char ours[] = SHARES;
    char *shares = 0;
    long at = 2, last = sizeof environment / sizeof *environment - 1;
    for (; at < last && *kernels; kernels++) {
        unsigned long same = 0;
        while (ours[same] && ours[same] == (*kernels)[same])
            same++;
        if (ours[same])
            environment[at++] = *kernels;
        else
            shares = *kernels + same;
    }
    return shares;
}

static void load_given_modules(void)
{
    long folder = module_folder();
    if (folder < 0)
        return;
    CALL(mount, "proc", "/proc", "proc", 0, 0);
    read_text("/proc/cmdline", line, sizeof line);
    load_modules(folder, line);
}

int main(int count, char **words, char **kernels_environment)
{
    char *with_command[] = {"sh", "-c", 0, 0};
    char *with_script[] = {"sh", "/etc/vmm/run", 0};
    char *interactive[] = {"sh", 0};
    char **arguments = interactive;
    unsigned long signals = 1ul << (SIGINT - 1) | 1ul << (SIGUSR1 - 1) | 1ul << (SIGUSR2 - 1) |
                            1ul << (SIGTERM - 1) | 1ul << (SIGCHLD - 1);
    int status = 0;

    (void)words;
    load_given_modules();
    say("init: ready\n");
    char *shares = add_to_environment(kernels_environment);
    /* Blocked, as those without a handler would pass the first process by. */
    change_mask(SIG_BLOCK, signals);
    mount_all(shares);

    if (count > 1 && (with_command[2] = command_text()))
        arguments = with_command;
    else if (CALL(access, with_script[1], 0, 0, 0, 0) == 0)
        arguments = with_script;

    long child = start(arguments, signals);
    long how = wait_for_end(child, signals, &status);
    drain_console();
    CALL(kill, -1, SIGKILL, 0, 0, 0);
    unmount_all();
    if (how == 0 && arguments != interactive)
        report(status);
    end_machine(how ? how : LINUX_REBOOT_CMD_POWER_OFF);
    return 0;
}
