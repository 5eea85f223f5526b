/*
 * The kernel's log for the host: what it holds since the host last asked, and the taint.
 *
 * The file stays open, so its place in the log is part of a snapshot: a restored guest tells what
 * came after that. The kernel marks what it printed itself; whatever a program writes there has
 * another facility (Linux Documentation/ABI/testing/dev-kmsg). An answer has no place among the jobs,
 * which a test may have filled, and is sent as there is room; what it holds at most is far less than
 * the host's credit for the output of a job.
 */

enum { KMSG_MAJOR = 1, KMSG_MINOR = 11 };
enum { LONGEST_RECORD = 8192 }; /* CONSOLE_EXT_LOG_MAX; a shorter read loses the record */
enum { LONGEST_LOG = 128 << 10 };

static long log_file = -1, taint_file = -1;
static unsigned log_id; /* 0: nothing is asked for */
static unsigned log_left;

static void open_log(void)
{
    if (port_path) /* the log would be another machine's */
        return;
    if (log_file < 0)
        log_file = open_device("/dev/kmsg", O_RDONLY | O_NONBLOCK, KMSG_MAJOR, KMSG_MINOR);
    if (taint_file < 0) {
        long processes = detached("proc");
        taint_file = CALL(openat, processes, "sys/kernel/tainted", O_RDONLY | O_CLOEXEC, 0, 0);
        if (processes >= 0)
            CALL(close, processes, 0, 0, 0, 0);
    }
}

static void end_log(unsigned char how, unsigned value)
{
    add_status(log_id, how, value);
    log_id = 0;
}

/*
 * Answers with the taint first, a line: a kernel prints its complaint before it is tainted by it,
 * so what the log has is never less.
 */
static void begin_log(unsigned id)
{
    if (id == 0 || log_id || find_job(id)) {
        refuse(id, EEXIST, "the id is 0 or in use");
        return;
    }
    open_log();
    log_id = id;
    log_left = LONGEST_LOG;
    long count = CALL(pread64, taint_file, next_data(), 24, 0, 0);
    if (count <= 0) { /* not known */
        next_data()[0] = '\n';
        count = 1;
    }
    add_frame(id, OUTPUT, count);
}

/* Sends records, each of which a read gives, while there is room for the longest. */
static void serve_log(void)
{
    while (log_id && room() >= HEADER_BYTES + LONGEST_RECORD + ROOM_FOR_ANSWERS) {
        long count = CALL(read, log_file, next_data(), LONGEST_RECORD, 0, 0);
        if (count == -EPIPE || count == -EINTR)
            continue; /* some were overwritten; their numbers are missing in what follows */
        if (count > 0) {
            add_frame(log_id, OUTPUT, count);
            log_left -= (unsigned)count < log_left ? (unsigned)count : log_left;
        }
        if (count == -EAGAIN || log_left == 0)
            end_log(EXITED, 0);
        else if (count <= 0)
            end_log(FAILED, count ? -count : EIO);
    }
}
