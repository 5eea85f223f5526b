/*
 * The agent's two buffers: frames that came from the host, and frames for it.
 *
 * A frame is {u32 length of the rest, u32 id, u8 kind, ...}, little-endian; vmm/agent/protocol.py
 * describes the protocol. What is gathered for the host is written in one go; while some of it is
 * left, nothing is done that would add to it, so neither buffer can overflow, whoever is slow.
 */

#include <asm/errno.h>

enum { HELLO = 1, RUN, READ, WRITE, DATA, END, CREDIT, KILL, REFRESH, POWER, RESIZE, CLOSE, LOG };
enum { READY = 0x81, OUTPUT, ERRORS, CONSUMED, STATUS, REFUSED };

enum { HEADER_BYTES = 9, SHORTEST = 5, LONGEST = 128 << 10, OUT_BYTES = 32 << 10 };

/* More than the answers to one frame, or the last words of one job, can take. */
enum { ROOM_FOR_ANSWERS = 512 };

struct frame {
    unsigned id, size;
    unsigned char kind;
    unsigned char *data;
};

static unsigned char in_buffer[4 + LONGEST], out_buffer[OUT_BYTES];
static unsigned in_begin, in_end, skipped, out_begin, out_end;
static int port = -1;

static void copy(void *to, const void *from, unsigned long size)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

static unsigned get_u32(const unsigned char *at)
{
    return at[0] | at[1] << 8 | at[2] << 16 | (unsigned)at[3] << 24;
}

static void put_u32(unsigned char *at, unsigned value)
{
    copy(at, &value, 4);
}

/* Output: to the host */

static unsigned room(void)
{
    return OUT_BYTES - out_end;
}

static int has_unsent(void)
{
    return out_begin < out_end;
}

/* Where the data of a frame begins that is about to be added. */
static unsigned char *next_data(void)
{
    return out_buffer + out_end + HEADER_BYTES;
}

/* Adds a frame whose data stands at next_data() already; the caller has seen to the room. */
static void add_frame(unsigned id, unsigned char kind, unsigned size)
{
    unsigned char *at = out_buffer + out_end;
    put_u32(at, size + SHORTEST);
    put_u32(at + 4, id);
    at[8] = kind;
    out_end += HEADER_BYTES + size;
}

static void add_number(unsigned id, unsigned char kind, unsigned number)
{
    put_u32(next_data(), number);
    add_frame(id, kind, 4);
}

/* The last frame of a job or the answer to a request: how it ended, and a number that goes with it. */
static void add_status(unsigned id, unsigned char how, unsigned value)
{
    next_data()[0] = how;
    put_u32(next_data() + 1, value);
    add_frame(id, STATUS, 5);
}

/* Also the last frame for its id: the request made no sense. The text is short. */
static void refuse(unsigned id, unsigned number, const char *why)
{
    put_u32(next_data(), number);
    copy(next_data() + 4, why, length(why));
    add_frame(id, REFUSED, 4 + length(why));
}

/* Writes what the port takes; negative when it is broken. */
static long flush(void)
{
    while (has_unsent()) {
        long count = CALL(write, port, out_buffer + out_begin, out_end - out_begin, 0, 0);
        if (count == -EAGAIN || count == -EINTR)
            return 0;
        if (count <= 0)
            return -EIO;
        out_begin += count;
    }
    out_begin = out_end = 0;
    return 0;
}

/* Input: from the host */

static unsigned input_space(void)
{
    return sizeof in_buffer - in_end;
}

/* Reads what has come; negative when the other end is closed. */
static long receive(void)
{
    long count = CALL(read, port, in_buffer + in_end, input_space(), 0, 0);
    if (count == -EAGAIN || count == -EINTR)
        return 0;
    if (count <= 0)
        return -EIO;
    in_end += count;
    return 0;
}

/* Drops what still comes of a frame that was refused for its length. */
static void skip(void)
{
    unsigned size = in_end - in_begin < skipped ? in_end - in_begin : skipped;
    in_begin += size;
    skipped -= size;
}

/* Moves an unfinished frame to the front, so that the rest of it has space. */
static void make_space(void)
{
    copy(in_buffer, in_buffer + in_begin, in_end - in_begin);
    in_end -= in_begin;
    in_begin = 0;
}

/* Returns whether there is a complete frame, and takes it; its data is good until make_space(). */
static int next_frame(struct frame *frame)
{
    for (;;) {
        skip();
        unsigned char *at = in_buffer + in_begin;
        unsigned size = in_end - in_begin < 4 ? 0 : get_u32(at);
        if (in_end - in_begin < 4)
            return 0;
        if (size >= SHORTEST && size <= LONGEST) {
            if (in_end - in_begin < 4 + size)
                return 0;
            *frame = (struct frame){get_u32(at + 4), size - SHORTEST, at[8], at + HEADER_BYTES};
            in_begin += 4 + size;
            return 1;
        }
        if (room() < ROOM_FOR_ANSWERS)
            return 0;
        refuse(0, size > LONGEST ? EMSGSIZE : EPROTO, "a frame's length is out of range");
        in_begin += 4;
        skipped = size;
    }
}

static void reset_frames(void)
{
    in_begin = in_end = skipped = out_begin = out_end = 0;
}
