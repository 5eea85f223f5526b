/*
 * Where the agent finds its port: the one that virtio-console names "vmm.agent".
 *
 * Beside somebody else's init nothing may be disturbed, and perhaps nothing is mounted yet. So the
 * agent looks at file systems that it mounts nowhere, and keeps its device nodes in one of them.
 */

#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/stat.h>

enum { PORT_STEP_MS = 50, PORT_STEPS = 200 };
enum { URANDOM_MAJOR = 1, URANDOM_MINOR = 9 };

struct entry {
    unsigned long inode, offset;
    unsigned short size;
    unsigned char kind;
    char name[];
};

static const char port_name[] = "vmm.agent\n";

/* Given as an argument, for tests without virtio; 0 to look for the port. */
static const char *port_path;
static long nodes = -1;

/* Returns a file system that is mounted nowhere, to be used by openat() and the like. */
static long detached(const char *kind)
{
    long context = CALL(fsopen, kind, FSOPEN_CLOEXEC, 0, 0, 0);
    if (context < 0)
        return context;
    CALL(fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0);
    long root = CALL(fsmount, context, FSMOUNT_CLOEXEC, 0, 0, 0);
    CALL(close, context, 0, 0, 0, 0);
    return root;
}

static void make_node(const char *name, unsigned major, unsigned minor)
{
    unsigned device = (minor & 0xff) | major << 8 | (minor & ~0xffu) << 12;
    if (nodes < 0)
        nodes = detached("ramfs");
    CALL(unlinkat, nodes, name, 0, 0, 0);
    CALL(mknodat, nodes, name, S_IFCHR | 0600, device, 0);
}

/* Reads an attribute of a port, a short text, with a zero at its end. */
static void read_attribute(long folder, const char *port, const char *attribute, char *text, long size)
{
    long inside = CALL(openat, folder, port, O_PATH | O_DIRECTORY | O_CLOEXEC, 0, 0);
    long file = CALL(openat, inside, attribute, O_RDONLY | O_CLOEXEC, 0, 0);
    long count = CALL(read, file, text, size - 1, 0, 0);
    text[count < 0 ? 0 : count] = 0;
    if (file >= 0)
        CALL(close, file, 0, 0, 0, 0);
    if (inside >= 0)
        CALL(close, inside, 0, 0, 0, 0);
}

static int same_text(const char *one, const char *other)
{
    while (*one && *one == *other)
        one++, other++;
    return *one == *other;
}

static unsigned take_number(char **text)
{
    unsigned number = 0;
    while (**text >= '0' && **text <= '9')
        number = number * 10 + *(*text)++ - '0';
    return number;
}

/* Makes a node for the port if the folder's entry is the one; returns whether it is. */
static int try_port(long folder, const char *entry)
{
    char text[32], *at = text;
    read_attribute(folder, entry, "name", text, sizeof text);
    if (!same_text(text, port_name))
        return 0;
    read_attribute(folder, entry, "dev", text, sizeof text);
    unsigned major = take_number(&at);
    at += *at == ':';
    make_node("port", major, take_number(&at));
    return 1;
}

static void find_port(void)
{
    static char entries[2048];
    long system = detached("sysfs"), count, found = 0;
    long folder = CALL(openat, system, "class/virtio-ports", O_RDONLY | O_CLOEXEC, 0, 0);
    while (!found && (count = CALL(getdents64, folder, entries, sizeof entries, 0, 0)) > 0)
        for (long at = 0; at < count && !found; at += ((struct entry *)(entries + at))->size)
            found = try_port(folder, ((struct entry *)(entries + at))->name);
    if (folder >= 0)
        CALL(close, folder, 0, 0, 0, 0);
    if (system >= 0)
        CALL(close, system, 0, 0, 0, 0);
}

static long try_open(void)
{
    int flags = O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    if (port_path)
        return CALL(open, port_path, flags, 0, 0, 0);
    return CALL(openat, nodes, "port", flags, 0, 0);
}

/* Opens the port, which may not be there yet; negative when it does not come. */
static long open_port(void)
{
    for (int step = 0; step < PORT_STEPS; step++) {
        if ((port = try_open()) >= 0)
            return 0;
        if (!port_path)
            find_port();
        if ((port = try_open()) >= 0)
            return 0;
        CALL(poll, 0, 0, PORT_STEP_MS, 0, 0);
    }
    return -ENODEV;
}

/* Opens a device by its path, or where that is not there by a node of ours. */
static long open_device(const char *path, int flags, unsigned major, unsigned minor)
{
    const char *name = path + length("/dev/");
    long file = CALL(open, path, flags | O_CLOEXEC, 0, 0, 0);
    if (file >= 0 || port_path)
        return file;
    make_node(name, major, minor);
    return CALL(openat, nodes, name, flags | O_CLOEXEC, 0, 0);
}

static long open_random(void)
{
    return open_device("/dev/urandom", O_WRONLY, URANDOM_MAJOR, URANDOM_MINOR);
}
