/*
 * Pseudo-terminals for commands of somebody who sits at a terminal. Linux ioctl_tty(2), pts(4).
 */

/* Whether the folder of pseudo-terminals is ours to mount. */
static int mount_terminals;

/* Tells a terminal its size: {u16 columns, rows}; whoever is in its foreground gets SIGWINCH. */
static void resize_terminal(int terminal, const unsigned char *size)
{
    /* struct winsize { unsigned short ws_row, ws_col, ws_xpixel, ws_ypixel; } */
    unsigned short window[4] = {size[2] | size[3] << 8, size[0] | size[1] << 8, 0, 0};
    CALL(ioctl, terminal, TIOCSWINSZ, window, 0, 0);
}

/*
 * Opens the master of a new pseudo-terminal. As the first process the agent mounts what is missing
 * for it; beside another init it takes what is there, or else a terminal that has no name.
 */
static long open_terminal(void)
{
    int flags = O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK;
    long master = CALL(open, "/dev/ptmx", flags, 0, 0, 0);
    if (master >= 0)
        return master;
    if (mount_terminals) {
        CALL(mkdir, "/dev/pts", 0755, 0, 0, 0);
        CALL(mount, "devpts", "/dev/pts", "devpts", 0, 0);
        if ((master = CALL(open, "/dev/ptmx", flags, 0, 0, 0)) >= 0)
            return master;
    }
    long detached_ones = detached("devpts");
    master = CALL(openat, detached_ones, "ptmx", flags, 0, 0);
    CALL(close, detached_ones, 0, 0, 0, 0);
    return master;
}
