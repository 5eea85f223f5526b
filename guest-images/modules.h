/*
 * Loads the modules that the host has put into the initial RAM disk, before anything else is done.
 *
 * The file "order" in their folder names them, each behind those that it needs. Parameters of a
 * module come from the kernel's command line, as modprobe takes them: module.parameter=value, where
 * a dash in the module's name is as good as a low line.
 */

#include <asm/errno.h>
#include <linux/fcntl.h>

static char module_order[8192], module_parameters[4096 + 1];

static char as_low_line(char one)
{
    return one == '-' ? '_' : one;
}

/* Returns what follows "name." at the start of a word, 0 when that is something else. */
static const char *after_name(const char *word, const char *name, long size)
{
    for (long at = 0; at < size; at++)
        if (as_low_line(word[at]) != as_low_line(name[at]))
            return 0;
    return word[size] == '.' ? word + size + 1 : 0;
}

/* Returns the end of a word of the command line; blanks between double quotes belong to it. */
static const char *word_end(const char *word)
{
    int quoted = 0;
    for (; *word && (quoted || (*word != ' ' && *word != '\n')); word++)
        quoted ^= *word == '"';
    return word;
}

static void find_parameters(const char *command_line, const char *name, long size)
{
    long used = 0;
    for (const char *word = command_line, *end; *word; word = *end ? end + 1 : end) {
        end = word_end(word);
        if (end == word + 2 && word[0] == '-' && word[1] == '-')
            break; /* what follows is for init */
        int quoted = *word == '"';
        const char *from = after_name(word + quoted, name, size);
        if (!from)
            continue;
        if (quoted)
            module_parameters[used++] = '"';
        while (from < end)
            module_parameters[used++] = *from++;
        module_parameters[used++] = ' ';
    }
    module_parameters[used] = 0;
}

static void say_number(unsigned long number)
{
    char digits[24], *at = digits + sizeof digits - 1;
    for (*at = 0; number || !*at; number /= 10)
        *--at = '0' + number % 10;
    say(at);
}

static void load_module(long folder, const char *file, const char *command_line)
{
    long size = length(file) - 3; /* less ".ko" */
    long fd = CALL(openat, folder, file, O_RDONLY | O_CLOEXEC, 0, 0);
    find_parameters(command_line, file, size);
    long error = fd < 0 ? fd : CALL(finit_module, fd, module_parameters, 0, 0, 0);
    if (fd >= 0)
        CALL(close, fd, 0, 0, 0, 0);
    if (error >= 0 || error == -EEXIST)
        return;
    say("init: module ");
    say(file);
    say(" cannot be loaded: error ");
    say_number(-error);
    say("\n");
}

/* The console may have come with a module: the kernel could not open it for us then. */
static void open_late_console(void)
{
    if (CALL(fcntl, 1, F_GETFD, 0, 0, 0) >= 0)
        return;
    long fd = CALL(open, "/dev/console", O_RDWR, 0, 0, 0);
    for (long standard = 0; fd >= 0 && standard < 3; standard++)
        CALL(dup2, fd, standard, 0, 0, 0);
    if (fd > 2)
        CALL(close, fd, 0, 0, 0, 0);
}

/* Says whether there are modules; without any that costs one system call. */
static long module_folder(void)
{
    return CALL(open, "/vmm-modules", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, 0, 0);
}

static void load_modules(long folder, const char *command_line)
{
    long fd = CALL(openat, folder, "order", O_RDONLY | O_CLOEXEC, 0, 0);
    long count = CALL(read, fd, module_order, sizeof module_order - 1, 0, 0);
    CALL(close, fd, 0, 0, 0, 0);
    for (long at = 0, start = 0; at < count; at++)
        if (module_order[at] == '\n') {
            module_order[at] = 0;
            load_module(folder, module_order + start, command_line);
            start = at + 1;
        }
    CALL(close, folder, 0, 0, 0, 0);
    open_late_console();
}
