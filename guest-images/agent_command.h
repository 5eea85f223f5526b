/*
 * How the agent starts a program.
 *
 * A fork would copy page tables and take faults over them, which is dear where the guest's kernel
 * is emulated: the child borrows the agent's memory until it executes the program, as with vfork(),
 * but on a stack of its own, so that it cannot disturb its parent's.
 */

#include <linux/fcntl.h>

enum { MERGE_ERRORS = 1, WITH_INPUT = 2, REPLACE_ENVIRONMENT = 4, TERMINAL = 8, AS_USER = 16 };
enum { X_OK = 1 };
enum { MAX_GROUPS = 64, WORDS = 8192, CHILD_STACK_BYTES = 16 << 10, PATH_BYTES = 4096 };

/*
 * What a command's request begins with; cwd, arguments and environment follow, each with its zero.
 * With AS_USER the first of the arguments says who runs it.
 */
struct command_head {
    unsigned timeout_ms, credit;
    unsigned short argument_count, environment_count;
    unsigned char flags;
    unsigned char size[4]; /* columns and rows of the terminal */
} __attribute__((packed));

static char **own_environment;
static char *words[WORDS];
static unsigned char child_stack[CHILD_STACK_BYTES] __attribute__((aligned(16)));

/* Reads as the end of file for ever: the input of commands that get none. */
static int no_input;
static unsigned first_umask;

/* For the child, and its answer. */
static struct {
    char *folder, *user, **arguments, **environment;
    int in, out, err;
    unsigned char how, has_terminal;
    unsigned value;
} plan;

/* Returns whether "NAME=value" is of the name of another such word. */
static int same_name(const char *one, const char *other)
{
    while (*one && *one != '=' && *one == *other)
        one++, other++;
    return *one == *other && (*one == '=' || !*one);
}

static char *value_of(char **environment, const char *name_and_equals)
{
    for (; *environment; environment++)
        if (same_name(name_and_equals, *environment))
            return *environment + length(name_and_equals);
    return 0;
}

/* Returns the next of the path's folders with the name behind it; an empty one when too long. */
static char *candidate(char **path, const char *name)
{
    static char text[PATH_BYTES];
    unsigned long size = 0, name_size = length(name) + 1;
    while ((*path)[size] && (*path)[size] != ':')
        size++;
    text[0] = 0;
    if (size + 1 + name_size <= sizeof text) {
        copy(text, *path, size);
        text[size] = '/';
        copy(text + size + !!size, name, name_size);
    }
    *path += size + ((*path)[size] == ':');
    return text;
}

/* Whether it may be executed. AT_EACCESS spares the kernel a set of credentials for the question. */
static int is_executable(const char *file)
{
    long error = CALL(faccessat2, AT_FDCWD, file, X_OK, AT_EACCESS, 0);
    return (error == -ENOSYS ? CALL(access, file, X_OK, 0, 0, 0) : error) == 0;
}

/*
 * Executes a program, by its path or searched for in PATH; returns only with the error. What is
 * not found is left to BusyBox if there is one, which is all of its applets without links to them.
 */
static long execute(char **arguments, char **environment)
{
    char *path = value_of(environment, "PATH=");
    for (char *at = arguments[0]; *at; at++)
        if (*at == '/')
            return CALL(execve, arguments[0], arguments, environment, 0, 0);
    if (!*arguments[0])
        return -ENOENT;
    while (path && *path) {
        char *file = candidate(&path, arguments[0]);
        if (is_executable(file))
            return CALL(execve, file, arguments, environment, 0, 0);
    }
    return CALL(execve, "/bin/busybox", arguments, environment, 0, 0);
}

/* Gives up being root, for "uid:gid:group:group...". */
static long become_user(char *text)
{
    static unsigned ids[2 + MAX_GROUPS];
    unsigned count = 0;
    while (*text && count < 2 + MAX_GROUPS) {
        ids[count++] = take_number(&text);
        text += *text != 0;
    }
    if (count < 2)
        return -EINVAL;
    long error = CALL(setgroups, count - 2, ids + 2, 0, 0, 0);
    if (!error)
        error = CALL(setresgid, ids[1], ids[1], ids[1], 0, 0);
    return error ? error : CALL(setresuid, ids[0], ids[0], ids[0], 0, 0);
}

static __attribute__((used)) void child(void)
{
    CALL(setsid, 0, 0, 0, 0, 0);
    if (plan.has_terminal)
        CALL(ioctl, plan.in, TIOCSCTTY, 0, 0, 0);
    CALL(umask, first_umask, 0, 0, 0, 0);
    change_mask(SIG_SETMASK, 0);
    CALL(dup2, plan.in, 0, 0, 0, 0);
    CALL(dup2, plan.out, 1, 0, 0, 0);
    CALL(dup2, plan.err, 2, 0, 0, 0);
    long error = plan.user ? become_user(plan.user) : 0;
    plan.how = NO_FOLDER;
    if (!error && *plan.folder)
        error = CALL(chdir, plan.folder, 0, 0, 0, 0);
    if (!error)
        plan.how = NOT_EXECUTED;
    if (!error)
        error = execute(plan.arguments, plan.environment);
    plan.value = -error;
    CALL(exit_group, 127, 0, 0, 0, 0);
}

/* Returns the child's id when that has executed the program or ended. */
static long start_child(void)
{
    long result;
    register long r10 __asm__("r10") = 0;
    register long r8 __asm__("r8") = 0;
    __asm__ volatile("syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\tcall child\n\thlt\n1:"
                     : "=a"(result)
                     : "a"(__NR_clone), "D"((long)(CLONE_VM | CLONE_VFORK | SIGCHLD)),
                       "S"(child_stack + sizeof child_stack), "d"(0l), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}

/* Takes the words of a request: cwd, arguments, environment. Returns 0 if they are not as it says. */
static int take_words(struct frame *frame, struct command_head *head)
{
    char *at = (char *)frame->data + sizeof *head, *end = (char *)frame->data + frame->size;
    unsigned expected = 1u + head->argument_count + head->environment_count, count = 0;
    char **next = words;
    if (head->argument_count <= !!(head->flags & AS_USER) || at >= end || end[-1] != 0)
        return 0;
    plan.folder = at;
    for (; at < end && count < expected; at += length(at) + 1, count++) {
        if (count > 0)
            *next++ = at;
        if (count == head->argument_count)
            *next++ = 0;
    }
    *next = 0;
    int as_user = (head->flags & AS_USER) != 0;
    plan.user = as_user ? words[0] : 0;
    plan.arguments = words + as_user;
    plan.environment = words + head->argument_count + 1;
    return at == end && count == expected;
}

/* Adds the agent's own environment, less the names that the request brings. */
static void add_own_environment(unsigned own_count)
{
    char **end = plan.environment + own_count;
    for (char **own = own_environment; *own && end < words + WORDS - 1; own++) {
        char **at = plan.environment;
        while (at < plan.environment + own_count && !same_name(*at, *own))
            at++;
        if (at == plan.environment + own_count)
            *end++ = *own;
    }
    *end = 0;
}

/* Makes a terminal for the child: its slave into the plan, its master into the job, twice. */
static long make_terminal(struct job *job, struct command_head *head)
{
    int unlocked = 0;
    long master = open_terminal();
    if (master < 0)
        return master;
    job->has_terminal = plan.has_terminal = 1;
    job->streams[OUT].fd = master;
    CALL(ioctl, master, TIOCSPTLCK, &unlocked, 0, 0);
    resize_terminal(master, head->size);
    /* Not by its name, which need not exist for us: since Linux 4.13 (54ebbfb16034). */
    long slave = CALL(ioctl, master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC, 0, 0);
    if (slave < 0)
        return slave;
    plan.in = plan.out = plan.err = slave;
    long input = CALL(fcntl, master, F_DUPFD_CLOEXEC, 3, 0, 0);
    job->streams[IN].fd = input;
    return input < 0 ? input : 0;
}

/* Makes a pipe for the errors, unless they go where the output goes. */
static long make_errors_pipe(struct job *job, unsigned char flags)
{
    int ends[2];
    long error;
    if (flags & MERGE_ERRORS)
        return 0;
    if ((error = CALL(pipe2, ends, O_CLOEXEC, 0, 0, 0)) < 0)
        return error;
    job->streams[ERR].fd = ends[0];
    plan.err = ends[1];
    return 0;
}

/* Makes the pipes: the child's ends into the plan, the agent's into the job. */
static long make_pipes(struct job *job, unsigned char flags)
{
    int ends[2];
    long error;
    if (flags & WITH_INPUT) {
        if ((error = CALL(pipe2, ends, O_CLOEXEC, 0, 0, 0)) < 0)
            return error;
        plan.in = ends[0];
        job->streams[IN].fd = ends[1];
        CALL(fcntl, ends[1], F_SETFL, O_NONBLOCK, 0, 0);
    }
    if ((error = CALL(pipe2, ends, O_CLOEXEC, 0, 0, 0)) < 0)
        return error;
    job->streams[OUT].fd = ends[0];
    plan.out = plan.err = ends[1];
    return 0;
}

static long make_streams(struct job *job, struct command_head *head)
{
    plan.in = no_input;
    plan.out = plan.err = -1;
    plan.has_terminal = 0;
    int with_terminal = head->flags & TERMINAL;
    long error = with_terminal ? make_terminal(job, head) : make_pipes(job, head->flags);
    return error ? error : make_errors_pipe(job, head->flags);
}

static void close_childs_ends(void)
{
    if (plan.err != plan.out)
        CALL(close, plan.err, 0, 0, 0, 0);
    if (plan.out >= 0 && plan.out != plan.in)
        CALL(close, plan.out, 0, 0, 0, 0);
    if (plan.in != no_input)
        CALL(close, plan.in, 0, 0, 0, 0);
}

/* Starts what a request asks for, and answers at once when that cannot be started. */
static void run(struct frame *frame)
{
    struct command_head head;
    copy(&head, frame->data, sizeof head);
    if (head.argument_count + head.environment_count + 2 >= WORDS) {
        refuse(frame->id, E2BIG, "too many arguments");
        return;
    }
    if (!take_words(frame, &head)) {
        refuse(frame->id, EINVAL, "the words are not as many as it says");
        return;
    }
    struct job *job = new_job(frame->id, head.credit);
    if (!job)
        return;
    close_later_ones(); /* a file that is open for writing cannot be executed */
    if (!(head.flags & REPLACE_ENVIRONMENT))
        add_own_environment(head.environment_count);
    job->is_command = 1;
    plan.how = FAILED;
    plan.value = 0;
    long process = make_streams(job, &head);
    if (process == 0)
        process = start_child();
    close_childs_ends();
    if (process < 0)
        plan.value = -process;
    if (plan.value) {
        add_status(job->id, plan.how, plan.value);
        drop_job(job);
        return;
    }
    job->process = process;
    job->deadline = head.timeout_ms ? now_ms() + head.timeout_ms : 0;
}
