/*
 * Pseudo-terminals for commands of somebody who sits at a terminal. Linux ioctl_tty(2), pts(4).
 */

/* Tells a terminal its size: {u16 columns, rows}; whoever is in its foreground gets SIGWINCH. */
static void resize_terminal(int terminal, const unsigned char *size)
{
    /* struct winsize { unsigned short ws_row, ws_col, ws_xpixel, ws_ypixel; } */
    unsigned short window[4] = {size[2] | size[3] << 8, size[0] | size[1] << 8, 0, 0};
    CALL(ioctl, terminal, TIOCSWINSZ, window, 0, 0);
}

/*
 * Opens the master of a new pseudo-terminal. Where none can be made in /dev, nobody has mounted what
 * is needed for that: we do, so that the terminal has a name. Without /dev it has none.
 */
static long open_terminal(void)
{
    int flags = O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK;
    long master = CALL(open, "/dev/ptmx", flags, 0, 0, 0);
    if (master >= 0)
        return master;
    CALL(mkdir, "/dev/pts", 0755, 0, 0, 0);
    CALL(mount, "devpts", "/dev/pts", "devpts", 0, 0);
    if ((master = CALL(open, "/dev/ptmx", flags, 0, 0, 0)) >= 0)
        return master;
    long detached_ones = detached("devpts");
    master = CALL(openat, detached_ones, "ptmx", flags, 0, 0);
    CALL(close, detached_ones, 0, 0, 0, 0);
    return master;
}
