/*
 * What the agent does for the host at the same time: commands, and files read and written.
 *
 * All three are a job with up to three descriptors, served when poll() says that they are ready. A
 * command has a pipe to write and one or two to read, a file that is read is one to read, a file
 * that is written is one to write. Neither side may make the other one keep data without bound: a
 * job sends what the host gave credit for, and the host sends what the job has space for.
 */

#include <asm/poll.h>
#include <linux/sched.h>
#include <linux/time.h>

enum { EXITED, KILLED, NOT_EXECUTED, NO_FOLDER, FAILED, TIMED_OUT };

enum { JOBS = 16, WINDOW = 32 << 10, STREAMS = 3 };

/* The most that a pipe can hold: what comes beyond it was written after the command's end. */
enum { PIPE_BYTES = 1 << 20 };
enum { IN, OUT, ERR };

struct stream {
    int fd;         /* -1 when there is none */
    unsigned slot;  /* its place in the list given to poll(); 0 when it is not on it */
    unsigned late;  /* bytes read since the process ended */
};

struct job {
    unsigned id;                      /* 0: not in use */
    unsigned credit[STREAMS];         /* bytes that the host takes yet, of OUT and of ERR */
    unsigned granted, consumed;       /* bytes the host may send yet; taken but not yet told it */
    unsigned waiting_begin, waiting_end;
    int process;                      /* 0 when it has ended, or never was */
    unsigned value;
    long deadline;                    /* milliseconds of the monotonic clock, 0 without one */
    unsigned char how, is_command, has_terminal, timed_out, input_ended, polled_since_end;
    struct stream streams[STREAMS];
};

static struct job jobs[JOBS];
static unsigned char waiting[JOBS][WINDOW];

static struct pollfd polls[2 + JOBS * STREAMS];
static unsigned poll_count;

static long now_ms(void)
{
    struct { long seconds, nanoseconds; } now;
    CALL(clock_gettime, CLOCK_MONOTONIC, &now, 0, 0, 0);
    return now.seconds * 1000 + now.nanoseconds / 1000000;
}

/* Descriptors to close when the host has its answers: it does not wait for that. */
static int later_ones[JOBS * STREAMS];
static unsigned later_count;

static void close_later_ones(void)
{
    while (later_count)
        CALL(close, later_ones[--later_count], 0, 0, 0, 0);
}

static void close_stream(struct stream *stream)
{
    if (later_count == JOBS * STREAMS)
        close_later_ones();
    if (stream->fd >= 0)
        later_ones[later_count++] = stream->fd;
    stream->fd = -1;
    stream->slot = 0;
}

static struct job *find_job(unsigned id)
{
    for (struct job *job = jobs; job < jobs + JOBS; job++)
        if (job->id == id)
            return job;
    return 0;
}

/* Returns a free job with an id and no descriptors, or refuses and returns 0. */
static struct job *new_job(unsigned id, unsigned credit)
{
    struct job *job = id ? find_job(0) : 0;
    if (id == 0 || find_job(id))
        refuse(id, EEXIST, "the id is 0 or in use");
    else if (job == 0)
        refuse(id, EBUSY, "too many at a time");
    else {
        *job = (struct job){.id = id, .credit = {0, credit, credit}, .granted = WINDOW};
        for (int at = 0; at < STREAMS; at++)
            job->streams[at].fd = -1;
        return job;
    }
    return 0;
}

/* Stops everything that the job does and forgets it; its process is reaped when it is dead. */
static void drop_job(struct job *job)
{
    if (job->process)
        CALL(kill, -job->process, SIGKILL, 0, 0, 0);
    for (int at = 0; at < STREAMS; at++)
        close_stream(&job->streams[at]);
    job->id = 0;
}

/* Sends a signal to the process and its group; what has none is over at once. */
static void kill_job(struct job *job, unsigned signal)
{
    if (job->process) {
        CALL(kill, -job->process, signal, 0, 0, 0);
        return;
    }
    for (int at = 0; at < STREAMS; at++)
        close_stream(&job->streams[at]);
    if (!job->is_command) {
        job->how = FAILED;
        job->value = ECANCELED;
    }
}

/* Notes the end of a process; returns whether it was a job's. */
static int note_end(int process, int status)
{
    for (struct job *job = jobs; job < jobs + JOBS; job++)
        if (job->id && job->process == process) {
            int signal = status & 0x7f;
            job->how = job->timed_out ? TIMED_OUT : signal ? KILLED : EXITED;
            job->value = signal ? signal : status >> 8 & 0xff;
            job->process = 0;
            close_stream(&job->streams[IN]);
            return 1;
        }
    return 0;
}

/* Data from the host */

static void consume(struct job *job, unsigned size)
{
    job->consumed += size;
    if (job->consumed < WINDOW / 2)
        return;
    add_number(job->id, CONSUMED, job->consumed);
    job->granted += job->consumed;
    job->consumed = 0;
}

/* Returns how much was written; a stream that takes no more ever is closed, and says all. */
static unsigned write_some(struct job *job, const unsigned char *data, unsigned size)
{
    struct stream *stream = &job->streams[IN];
    long count = stream->fd < 0 ? -EPIPE : CALL(write, stream->fd, data, size, 0, 0);
    if (count == -EAGAIN || count == -EINTR)
        return 0;
    if (count >= 0)
        return count;
    close_stream(stream);
    if (!job->is_command && job->how != FAILED) { /* the first reason, where more data comes */
        job->how = FAILED;
        job->value = -count;
    }
    return size;
}

static void end_input(struct job *job)
{
    if (job->input_ended && job->waiting_begin == job->waiting_end)
        close_stream(&job->streams[IN]);
}

static void take_data(struct job *job, struct frame *frame)
{
    if (frame->size > job->granted || job->input_ended) {
        refuse(job->id, EPROTO, "more data than there is space for");
        drop_job(job);
        return;
    }
    job->granted -= frame->size;
    unsigned written = 0;
    if (job->waiting_begin == job->waiting_end) {
        job->waiting_begin = job->waiting_end = 0;
        written = write_some(job, frame->data, frame->size);
        consume(job, written);
    }
    for (unsigned at = written; at < frame->size; at++)
        waiting[job - jobs][job->waiting_end++ % WINDOW] = frame->data[at];
}

static void write_waiting(struct job *job)
{
    unsigned begin = job->waiting_begin % WINDOW;
    unsigned size = job->waiting_end - job->waiting_begin;
    if (size > WINDOW - begin)
        size = WINDOW - begin;
    unsigned written = write_some(job, waiting[job - jobs] + begin, size);
    job->waiting_begin += written;
    consume(job, written);
    end_input(job);
}

/* Data for the host */

/*
 * Without a writer a pipe that gave less than was asked for has no more. A terminal may, in parts of
 * which each read gives one; its last read fails.
 */
static void send_some(struct job *job, int which, short events)
{
    struct stream *stream = &job->streams[which];
    unsigned size = room() - ROOM_FOR_ANSWERS - HEADER_BYTES;
    if (size > job->credit[which])
        size = job->credit[which];
    long count = events == POLLHUP ? 0 : CALL(read, stream->fd, next_data(), size, 0, 0);
    if (count == -EAGAIN || count == -EINTR)
        return;
    if (count > 0) {
        add_frame(job->id, which == OUT ? OUTPUT : ERRORS, count);
        job->credit[which] -= count;
        stream->late += job->process ? 0 : count;
    }
    if (count < 0 && !job->is_command) {
        job->how = FAILED;
        job->value = -count;
    }
    int empty = events & POLLHUP && count < (long)size && !job->has_terminal;
    if (count <= 0 || (job->is_command && (empty || stream->late >= PIPE_BYTES)))
        close_stream(stream);
}

/* Polling */

static unsigned watch(int fd, short events)
{
    polls[poll_count] = (struct pollfd){fd, events, 0};
    return poll_count++;
}

static void watch_job(struct job *job)
{
    int has_waiting = job->waiting_begin != job->waiting_end;
    for (int at = 0; at < STREAMS; at++) {
        struct stream *stream = &job->streams[at];
        int wanted = stream->fd >= 0 && (at == IN ? has_waiting : job->credit[at] > 0);
        stream->slot = wanted ? watch(stream->fd, at == IN ? POLLOUT : POLLIN) : 0;
    }
    job->polled_since_end = job->process == 0;
}

/* Whether there may be output of a command that has ended: asked at once, not when poll() wakes. */
static int may_have_rest(struct job *job)
{
    return job->is_command && !job->process &&
           ((job->streams[OUT].fd >= 0 && job->credit[OUT]) ||
            (job->streams[ERR].fd >= 0 && job->credit[ERR]));
}

static int is_finished(struct job *job)
{
    for (int at = 0; at < STREAMS; at++)
        if (job->streams[at].fd >= 0)
            return 0;
    return job->process == 0;
}

/*
 * Does what the last poll() found possible. A command is over when its process has ended and what
 * it had written is sent; that others whom it left behind still hold the pipe delays nothing.
 */
static void serve_job(struct job *job)
{
    for (int at = 0; at < STREAMS && room() >= 2 * ROOM_FOR_ANSWERS; at++) {
        struct stream *stream = &job->streams[at];
        short events = stream->slot ? polls[stream->slot].revents : 0;
        if (events && at == IN)
            write_waiting(job);
        else if (events && job->credit[at])
            send_some(job, at, events);
        else if (stream->slot && job->is_command && job->polled_since_end && !events)
            close_stream(stream);
    }
    if (is_finished(job) && room() >= ROOM_FOR_ANSWERS) {
        add_status(job->id, job->how, job->value);
        job->id = 0;
    }
}

/* Kills what is over its time; returns the milliseconds until the next one is, or -1. */
static long keep_deadlines(void)
{
    long now = 0, next = -1;
    for (struct job *job = jobs; job < jobs + JOBS; job++) {
        if (!job->id || !job->process || !job->deadline)
            continue;
        now = now ? now : now_ms();
        if (job->deadline <= now) {
            job->timed_out = 1;
            job->deadline = 0;
            CALL(kill, -job->process, SIGKILL, 0, 0, 0);
        } else if (next < 0 || job->deadline - now < next)
            next = job->deadline - now;
    }
    return next;
}
