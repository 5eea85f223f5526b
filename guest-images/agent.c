/*
 * The guest's agent: serves the host's commands over the virtio-console port "vmm.agent".
 *
 *     vmm-agent PORT      serves on that terminal or port; for tests without a guest
 *     rdinit=/vmm-agent   on the kernel command line: it is the first process
 *
 * As the first process it is the init of a small guest; with VMM_AGENT_INIT=/path on the kernel
 * command line it leaves that to the program there, and serves beside it. With VMM_AGENT_QUIET=1 it
 * says nothing on the console. VMM_SHARES is in shares.h. One process without
 * threads and without libc, which sleeps in poll() while there is nothing to do: on hosts without
 * hardware virtualization each system call costs some thousand emulated instructions.
 *
 * When the host closes its end of the port, every command is killed and the port is opened anew,
 * which also drops what was under way in it. So a host that has restored a guest from a snapshot
 * starts with a clean agent, whatever the one that saved it was doing.
 */

#include "freestanding.h"

#include "agent_frames.h"
#include "agent_jobs.h"

#include "agent_port.h"
#include "agent_terminal.h"

#include "agent_log.h"

#include "agent_command.h"
#include "shares.h"

#include "modules.h"

#include <linux/random.h>
#include <linux/utsname.h>

enum { VERSION = 2, HANGUP_STEP_MS = 1000, SEED_BYTES = 512 };
enum { POWER_OFF, RESTART, REPORT, PANIC };

#define BIT(signal) (1ul << ((signal) - 1))

static const char magic[8] = "vmmagent";
static int signals, is_first, is_quiet;

/* Whether another process may have ended: asked when the host has been told of the last one. */
static int more_have_ended;
static long own_process;
static struct new_utsname names;

/* Kept open, as a restored guest needs it at once; negative when it could not be opened yet. */
static long random_file = -1;

/* The folder of the first process in /proc, when that is another one. */
static long init_folder = -1;

/* Ending the machine */

/* By SysRq, or by the end of the first process, which no kernel survives. */
static long panic(void)
{
    long processes = detached("proc");
    long trigger = CALL(openat, processes, "sysrq-trigger", O_WRONLY | O_CLOEXEC, 0, 0);
    CALL(close, processes, 0, 0, 0, 0);
    if (trigger >= 0) {
        CALL(write, trigger, "c", 1, 0, 0);
        CALL(close, trigger, 0, 0, 0, 0);
    }
    if (is_first)
        CALL(exit_group, 1, 0, 0, 0, 0);
    return trigger < 0 ? trigger : -EIO;
}

static long end(unsigned char how, unsigned char status)
{
    if (port_path)
        return -EPERM;
    flush(); /* what was answered before this in the same turn */
    if (how == PANIC)
        return panic();
    drain_console();
    if (is_first) {
        CALL(kill, -1, SIGKILL, 0, 0, 0);
        unmount_all();
    }
    CALL(sync, 0, 0, 0, 0, 0);
    if (how == REPORT)
        return report_status(status);
    return end_machine(how == POWER_OFF ? LINUX_REBOOT_CMD_POWER_OFF : LINUX_REBOOT_CMD_RESTART);
}

/* Signals, which come as data: no handler ever runs, and poll() wakes for them */

static void open_signals(void)
{
    unsigned long mask = BIT(SIGCHLD) | BIT(SIGPIPE) | BIT(SIGIO);
    if (is_first) /* what poweroff and reboot of BusyBox send to it */
        mask |= BIT(SIGUSR1) | BIT(SIGUSR2) | BIT(SIGTERM) | BIT(SIGINT);
    change_mask(SIG_SETMASK, mask);
    mask &= ~BIT(SIGPIPE);
    signals = CALL(signalfd4, -1, &mask, sizeof mask, O_CLOEXEC | O_NONBLOCK, 0);
}

static void take_signals(void)
{
    static unsigned char information[8][128]; /* for more kinds than there are in the mask */
    int status;
    long process, size = CALL(read, signals, information, sizeof information, 0, 0);
    for (long at = 0; at < size / (long)sizeof information[0]; at++) {
        unsigned signal = get_u32(information[at]);
        if (signal == SIGUSR1 || signal == SIGUSR2)
            end(POWER_OFF, 0);
        if (signal == SIGTERM || signal == SIGINT)
            end(RESTART, 0);
    }
    process = CALL(wait4, -1, &status, WNOHANG, 0, 0);
    more_have_ended = process > 0;
    if (process > 0)
        note_end(process, status);
}

/* Requests */

static void say_ready(unsigned id)
{
    unsigned char *at = next_data();
    copy(at, magic, sizeof magic);
    put_u32(at + 8, VERSION);
    put_u32(at + 12, own_process);
    copy(at + 16, names.release, length(names.release));
    add_frame(id, READY, 16 + length(names.release));
}

/* What follows a switch of the root by the init beside us: its root becomes ours. */
static void follow_init(void)
{
    if (init_folder < 0)
        return;
    CALL(fchdir, init_folder, 0, 0, 0, 0);
    CALL(chroot, "root", 0, 0, 0, 0);
    CALL(chdir, "/", 0, 0, 0, 0);
}

/* {u32 credit or mode, the path with its zero} */
static void open_file(struct frame *frame)
{
    unsigned number = get_u32(frame->data);
    int reading = frame->kind == READ;
    struct job *job = new_job(frame->id, reading ? number : 0);
    if (!job)
        return;
    int flags = reading ? O_RDONLY : O_WRONLY | O_CREAT | O_TRUNC;
    long file = CALL(open, frame->data + 4, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, number, 0, 0);
    if (file >= 0) {
        job->streams[reading ? OUT : IN].fd = file;
        return;
    }
    add_status(job->id, FAILED, -file);
    drop_job(job);
}

/* {u64 nanoseconds since 1970 or 0 to leave the clock alone, the seed} */
static long refresh(struct frame *frame)
{
    static struct { int bits, size; unsigned char seed[SEED_BYTES]; } entropy;
    unsigned long time;
    copy(&time, frame->data, sizeof time);
    long now[2] = {time / 1000000000, time % 1000000000};
    long error = time ? CALL(clock_settime, CLOCK_REALTIME, now, 0, 0, 0) : 0;
    unsigned size = frame->size - sizeof time;
    if (error || size == 0)
        return error;
    if (size > SEED_BYTES)
        return -EMSGSIZE;
    if (random_file < 0 && (random_file = open_random()) < 0)
        return random_file;
    entropy.bits = size * 8;
    entropy.size = size;
    copy(entropy.seed, frame->data + sizeof time, size);
    error = CALL(ioctl, random_file, RNDADDENTROPY, &entropy, 0, 0);
    if (!error)
        error = CALL(ioctl, random_file, RNDRESEEDCRNG, 0, 0, 0);
    return error;
}

static void serve_open_job(struct job *job, struct frame *frame)
{
    if (frame->kind == DATA)
        take_data(job, frame);
    else if (frame->kind == CREDIT)
        job->credit[frame->data[4] ? ERR : OUT] += get_u32(frame->data);
    else if (frame->kind == KILL)
        kill_job(job, get_u32(frame->data));
    else if (frame->kind == CLOSE)
        close_stream(&job->streams[frame->data[0] ? ERR : OUT]);
    else if (frame->kind == RESIZE)
        resize_terminal(job->streams[OUT].fd, frame->data);
    else if (frame->kind == END) {
        job->input_ended = 1;
        end_input(job);
    }
}

static void answer(struct frame *frame)
{
    static const unsigned char shortest[] = {
        [HELLO] = 0, [RUN] = sizeof(struct command_head) + 2, [READ] = 5, [WRITE] = 5, [DATA] = 0,
        [END] = 0, [CREDIT] = 5, [KILL] = 4, [REFRESH] = 8, [POWER] = 2, [RESIZE] = 4, [CLOSE] = 1,
        [LOG] = 0,
    };
    unsigned kind = frame->kind;
    if (kind < HELLO || kind > LOG) {
        refuse(frame->id, ENOSYS, "unknown kind of frame");
    } else if (frame->size < shortest[kind]) {
        refuse(frame->id, EPROTO, "the frame is too short");
    } else if ((kind == READ || kind == WRITE) && frame->data[frame->size - 1] != 0) {
        refuse(frame->id, EPROTO, "the path does not end");
    } else if (kind == HELLO) {
        say_ready(frame->id);
    } else if (kind == LOG) {
        begin_log(frame->id);
    } else if (kind == RUN) {
        follow_init();
        run(frame);
    } else if (kind == READ || kind == WRITE) {
        follow_init();
        open_file(frame);
    } else if (kind == REFRESH || kind == POWER) {
        long error = kind == REFRESH ? refresh(frame) : end(frame->data[0], frame->data[1]);
        add_status(frame->id, error ? FAILED : EXITED, -error);
    } else if (frame->id) {
        /* One that has just ended may still be sent something: that is nobody's fault. */
        struct job *job = find_job(frame->id);
        if (job)
            serve_open_job(job, frame);
    }
}

/* Serving */

/* Returns whether some are left for want of room for the answers. */
static int answer_all(void)
{
    struct frame frame;
    while (room() >= ROOM_FOR_ANSWERS && next_frame(&frame))
        answer(&frame);
    make_space();
    return room() < ROOM_FOR_ANSWERS;
}

/* Waits until there is something to do; negative when the host has closed its end. */
static long wait_for_work(int at_once)
{
    long timeout = keep_deadlines();
    poll_count = 0;
    watch(signals, POLLIN);
    watch(port, has_unsent() ? POLLOUT : input_space() ? POLLIN : 0);
    for (struct job *job = jobs; job < jobs + JOBS && !has_unsent(); job++)
        if (job->id) {
            watch_job(job);
            at_once |= is_finished(job) || may_have_rest(job);
        }
    at_once |= more_have_ended || log_id;
    CALL(poll, polls, poll_count, at_once && !has_unsent() ? 0 : timeout, 0, 0);
    if (polls[0].revents || more_have_ended)
        take_signals();
    return polls[1].revents & (POLLHUP | POLLERR | POLLNVAL) ? -EIO : 0;
}

/* Until the host closes its end. */
static void serve(void)
{
    int at_once = 0;
    reset_frames();
    log_id = 0;
    say_ready(0);
    while (flush() == 0) {
        close_later_ones();
        if (wait_for_work(at_once) < 0)
            return;
        if (has_unsent())
            continue;
        if (polls[1].revents & POLLIN && receive() < 0)
            return;
        at_once = answer_all();
        for (struct job *job = jobs; job < jobs + JOBS; job++)
            if (job->id)
                serve_job(job);
        serve_log();
    }
}

static int host_is_there(void)
{
    polls[0] = (struct pollfd){port, 0, 0};
    CALL(poll, polls, 1, 0, 0, 0);
    return !(polls[0].revents & POLLHUP);
}

/* The port says by a signal that the host has opened it; one that does not is asked every second. */
static void wait_for_host(void)
{
    if (host_is_there())
        return;
    CALL(fcntl, port, F_SETOWN, own_process, 0, 0);
    CALL(fcntl, port, F_SETFL, O_RDWR | O_NONBLOCK | FASYNC, 0, 0);
    while (!host_is_there()) {
        polls[0] = (struct pollfd){signals, POLLIN, 0};
        CALL(poll, polls, 1, HANGUP_STEP_MS, 0, 0);
        do
            take_signals();
        while (more_have_ended);
    }
    CALL(fcntl, port, F_SETFL, O_RDWR | O_NONBLOCK, 0, 0);
}

/* Less what is for us; an init beside us gets no more than the kernel gave, and mounts the shares. */
static void take_environment(char **environment, int is_beside)
{
    static char *own[64];
    char **end = own;
    for (; *environment && end < own + 62; environment++)
        if (!same_name(*environment, "VMM_AGENT_INIT=") &&
            !same_name(*environment, "VMM_AGENT_QUIET=") &&
            (is_beside || !same_name(*environment, SHARES)))
            *end++ = *environment;
    own_environment = own;
}

static void add_path(void)
{
    char **end = own_environment;
    while (*end)
        end++;
    if (!value_of(own_environment, "PATH="))
        *end = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
}

static void be_agent(void)
{
    int ends[2];
    do { /* and 0 to 2 become used, if they were not: they are the standard ones of commands */
        CALL(pipe2, ends, O_CLOEXEC, 0, 0, 0);
        no_input = ends[0];
    } while (no_input < 3);
    CALL(close, ends[1], 0, 0, 0, 0);
    add_path();
    first_umask = CALL(umask, 0, 0, 0, 0, 0);
    open_signals();
    random_file = open_random();
    open_log();
    own_process = CALL(getpid, 0, 0, 0, 0, 0);
    CALL(uname, &names, 0, 0, 0, 0);
    while (open_port() == 0) {
        wait_for_host();
        serve();
        for (struct job *job = jobs; job < jobs + JOBS; job++)
            if (job->id)
                drop_job(job);
        close_later_ones();
        CALL(close, port, 0, 0, 0, 0);
    }
    say("vmm-agent: there is no port vmm.agent\n");
}

/* The start */

/* Modules come first, as the port needs some; beside another init nothing may be mounted. */
static void load_given_modules(void)
{
    long folder = module_folder();
    if (folder < 0)
        return;
    long processes = detached("proc");
    long file = CALL(openat, processes, "cmdline", O_RDONLY | O_CLOEXEC, 0, 0);
    long count = CALL(read, file, line, sizeof line - 1, 0, 0);
    line[count < 0 ? 0 : count] = 0;
    CALL(close, file, 0, 0, 0, 0);
    CALL(close, processes, 0, 0, 0, 0);
    load_modules(folder, line);
}

/* The first process goes on as the given init, and the agent beside it. */
static void start_beside(char *init, char **arguments)
{
    if (CALL(fork, 0, 0, 0, 0, 0) != 0) {
        arguments[0] = init;
        CALL(execve, init, arguments, own_environment, 0, 0);
        say("vmm-agent: VMM_AGENT_INIT: cannot be executed\n");
        CALL(exit_group, 127, 0, 0, 0, 0);
    }
    CALL(setsid, 0, 0, 0, 0, 0);
    arguments[0][0] = '@'; /* systemd spares such processes when it changes the root */
    long processes = detached("proc");
    init_folder = CALL(openat, processes, "1", O_PATH | O_DIRECTORY | O_CLOEXEC, 0, 0);
    CALL(close, processes, 0, 0, 0, 0);
    be_agent();
    CALL(exit_group, 1, 0, 0, 0, 0);
}

static void be_first(char *shares)
{
    is_first = 1;
    mount_all(shares);
    if (!is_quiet)
        say("init: ready\n");
    be_agent();
    end(POWER_OFF, 0);
}

int main(int count, char **arguments, char **environment)
{
    char *init = value_of(environment, "VMM_AGENT_INIT=");
    is_quiet = value_of(environment, "VMM_AGENT_QUIET=") != 0;
    take_environment(environment, init != 0);
    if (CALL(getpid, 0, 0, 0, 0, 0) == 1) {
        load_given_modules();
        if (init)
            start_beside(init, arguments);
        be_first(value_of(environment, SHARES));
    } else if (count == 2) {
        port_path = arguments[1];
        be_agent();
    } else
        say("usage: vmm-agent PORT\n");
    CALL(exit_group, 2, 0, 0, 0, 0);
    return 0;
}
