/*
 * Directories of the host, mounted by the first process: VMM_SHARES on the kernel command line has
 * an item for each, with colons between them. An item is "r", "w" or "o", a path, "=" and a tag:
 * mounted there for reading, for writing, or as the root, below a layer in memory.
 *
 * Linux filesystems/virtiofs.rst, filesystems/overlayfs.rst.
 */

#include <linux/mount.h>

#define SHARES "VMM_SHARES="
#define PLACE "/.vmm-root"

/* Makes the folders of a path, the last one included; one that is there is as good. */
static inline void make_folders(char *path)
{
    for (char *at = path + 1; *at; at++)
        if (*at == '/') {
            *at = 0;
            CALL(mkdir, path, 0755, 0, 0, 0);
            *at = '/';
        }
    CALL(mkdir, path, 0755, 0, 0, 0);
}

static inline void say_share_failed(const char *path)
{
    say("init: the share at ");
    say(path);
    say(" cannot be mounted: has this kernel virtiofs?\n");
}

/* Has a shared directory, seen through an overlay, as the root from now on. */
static inline long mount_root(const char *tag)
{
    CALL(mkdir, PLACE, 0755, 0, 0, 0);
    long error = CALL(mount, "layer", PLACE, "tmpfs", 0, "mode=0755,size=75%");
    CALL(mkdir, PLACE "/below", 0755, 0, 0, 0);
    CALL(mkdir, PLACE "/above", 0755, 0, 0, 0);
    CALL(mkdir, PLACE "/work", 0755, 0, 0, 0);
    CALL(mkdir, PLACE "/root", 0755, 0, 0, 0);
    if (!error)
        error = CALL(mount, tag, PLACE "/below", "virtiofs", MS_RDONLY, 0);
    if (!error)
        error = CALL(mount, "root", PLACE "/root", "overlay", 0,
                     "lowerdir=" PLACE "/below,upperdir=" PLACE "/above,workdir=" PLACE "/work");
    if (!error)
        error = CALL(chdir, PLACE "/root", 0, 0, 0, 0);
    if (!error)
        error = CALL(mount, ".", "/", 0, MS_MOVE, 0);
    if (!error)
        error = CALL(chroot, ".", 0, 0, 0, 0);
    CALL(chdir, "/", 0, 0, 0, 0);
    return error;
}

/* What a system's own init would have mounted, beside the basics. */
static inline void mount_for_system(void)
{
    CALL(mkdir, "/dev/pts", 0755, 0, 0, 0);
    CALL(mkdir, "/dev/shm", 01777, 0, 0, 0);
    CALL(mkdir, "/run", 0755, 0, 0, 0);
    CALL(mount, "pts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666");
    CALL(mount, "shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
    CALL(mount, "run", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
}

/* Takes the next item, cut into its path and tag; returns how to mount it, 0 at the end. */
static inline char next_share(char **list, char **path, char **tag)
{
    char how = **list;
    if (!how)
        return 0;
    *path = *list + 1;
    for (*tag = *path; **tag && **tag != '='; ++*tag)
        ;
    if (**tag)
        *(*tag)++ = 0;
    for (*list = *tag; **list && **list != ':'; ++*list)
        ;
    if (**list)
        *(*list)++ = 0;
    return how;
}

/* Mounts /dev, /proc and /sys, and all shares; the root comes first where it is one. */
static inline void mount_all(char *list)
{
    static char own[4096];
    char how, *path, *tag, *at = own;
    while (list && *list && at < own + sizeof own - 1)
        *at++ = *list++;
    int is_system = 0;
    if (own[0] == 'o') {
        at = own;
        next_share(&at, &path, &tag);
        is_system = mount_root(tag) == 0;
        if (!is_system)
            say_share_failed(path);
    } else
        at = own;
    CALL(mkdir, "/dev", 0755, 0, 0, 0);
    CALL(mkdir, "/proc", 0555, 0, 0, 0);
    CALL(mkdir, "/sys", 0555, 0, 0, 0);
    mount_basics();
    if (is_system)
        mount_for_system();
    while ((how = next_share(&at, &path, &tag)) != 0) {
        make_folders(path);
        if (CALL(mount, tag, path, "virtiofs", how == 'r' ? MS_RDONLY : 0, 0))
            say_share_failed(path);
    }
}
