/*
 * Shared structures of the native side of a virtqueue. VIRTIO 1.4 "Virtqueues".
 *
 *   ring.c     one queue: which chains are available, taking one apart, giving back, notifications
 *   batch.c    many chains at a time for handlers in Python, and giving them back
 *   serve.c    serving chains without Python: the loop, and the table of the kinds of devices
 *   block.c    the kind that reads and writes a file
 *   entropy.c  the kind that fills buffers with random bytes
 *   net.c      the kinds that move packets between rings and a tap or stream
 *   records.c  what a trace is told of chains that are taken and given back
 *
 * Each function has a twin in Python, which decides whatever is out of the ordinary: a chain that
 * breaks a rule, lies across regions of memory, or asks for anything but plain data stays in the
 * ring, and Python finds and answers it there. So nothing here reports an error to the driver, and
 * a rule is written down once more only to tell which chains are ordinary.
 *
 * The rings and descriptors are shared with a driver that may rewrite them at any moment: every
 * field is loaded once, by one load, and only the copy is looked at. Positions are those of the
 * Python classes: free-running 16-bit indices of a split queue, 0 to 2 * size - 1 of a packed one.
 *
 * Python is not trusted with positions either, for it may have them from a snapshot that somebody
 * made: each function that indexes with them first refuses those that no queue can have. From then
 * on they move only as far as there is room.
 */

#ifndef VIRTIO_NATIVE_H
#define VIRTIO_NATIVE_H

#ifndef __x86_64__
#error "native code is for x86-64: its memory orderings are not proven elsewhere, see notify.c"
#endif

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define _FILE_OFFSET_BITS 64
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

enum { NEXT = 1, WRITE = 2, INDIRECT = 4, AVAIL = 1 << 7, USED = 1 << 15 }; /* VIRTQ_DESC_F_ */
enum { MAX_SIZE = 32768, MAX_DESCRIPTORS = 1024, MAX_REGIONS = 4 };
enum { CHAINS = 256, COPIES = 2048, MAX_HEADER_BYTES = 64 }; /* of one exchange() */
enum { DATA_OUT = 1, DATA_IN = 2 };
enum { STEP_BYTES = 8 << 20 }; /* that serve() moves in one call, or little more */
enum { RANDOM_BYTES = 65536 }; /* for one chain at most */

/*
 * Why serve() and exchange() stopped: there is nothing to do, the next chain is for Python, the
 * driver has to be told of what is done, or others shall be served. Or nothing was done at all, for
 * a length without room, which is exchange()'s own, or for positions or counts that cannot be.
 */
enum end { IDLE, LEFT, TELL, MORE, WRONG, IMPOSSIBLE };
enum { REFUSED = -1 }; /* the same of functions that return a number */

#define LOAD(place) __atomic_load_n(&(place), __ATOMIC_RELAXED)
#define LOAD_FIRST(place) __atomic_load_n(&(place), __ATOMIC_ACQUIRE)
#define STORE(place, value) __atomic_store_n(&(place), value, __ATOMIC_RELAXED)
#define STORE_LAST(place, value) __atomic_store_n(&(place), value, __ATOMIC_RELEASE)

/* Queues and chains: ring.c */

struct region {
    uint64_t start, end; /* guest-physical */
    uint8_t *host;
};

struct queue {
    uint8_t *descriptors, *driver, *device; /* the three areas */
    uint32_t size, regions;
    uint8_t packed, event_idx, indirect, in_order;
    uint32_t next_avail, next_used;
    struct region region[MAX_REGIONS];
    uint64_t window_start, window_end; /* guest-physical: the region that Python has a view of */
    struct records *records; /* where a trace is told, or NULL */
};

/* A chain of one descriptor; or one descriptor of a chain, without head and id. */
struct plain {
    uint64_t address;
    uint32_t length;
    uint16_t flags, head, id;
};

struct segment {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next; /* split: the next index; packed: the buffer id */
};

struct chain {
    uint32_t id, slots, reads, writes;
    uint64_t readable, writable; /* bytes */
    struct plain *copies; /* where the descriptors are copied to, or NULL */
    struct iovec vector[MAX_DESCRIPTORS]; /* what can be read, then what can be written */
};

/* A chain to give back, as the driver knows it, and the bytes that could be read of it. */
struct done {
    uint32_t id, slots;
    uint64_t readable;
};

/* Counters of what was served, which the caller zeroes. */
struct served {
    uint64_t chains, bytes_read, bytes_written;
    uint32_t entries; /* of the ring, since the driver's wish to be notified was looked at */
};

uint64_t nanoseconds(void); /* by CLOCK_MONOTONIC */
uint32_t in_flight(const struct queue *queue);
int is_possible(const struct queue *queue);
int has_available(const struct queue *queue);
int wait_available(const struct queue *queue, uint64_t wait_ns);
int look(const struct queue *queue, struct chain *chain, struct plain *copies);
int copy_front(const struct chain *chain, void *to, size_t bytes);
uint32_t add_unseen(const struct queue *queue, uint32_t position, uint32_t id, uint32_t slots,
                    uint32_t length);
void show_used(struct queue *queue, uint32_t position, uint32_t first_length);
void add_used(struct queue *queue, struct done done, uint32_t length, struct served *served);
int wants_notification(const struct queue *queue, uint32_t count);
int has_to_tell(const struct queue *queue, struct served *served);
void decline_notification(struct queue *queue);
int request_notification(struct queue *queue);
int32_t take_plain(struct queue *queue, struct plain *plain, uint32_t limit);

static inline uint16_t *words(const uint8_t *area) { return (uint16_t *)area; }

/* Positions of a packed queue are those of two laps over its ring. */
static inline uint32_t lap(const struct queue *queue) { return 2 * queue->size; }

/* Return where the host has a range of guest memory, or NULL unless one region has all of it. */
static inline uint8_t *host_address(const struct queue *queue, uint64_t address, uint64_t length)
{
    for (uint32_t i = 0; i < queue->regions; i++) {
        const struct region *region = &queue->region[i];
        if (address >= region->start && address < region->end && length <= region->end - address)
            return region->host + (address - region->start);
    }
    return NULL;
}

/* Return the entry of its ring that a position is; a division would take longer than all else. */
static inline uint32_t entry_at(const struct queue *queue, uint32_t position)
{
    if (!queue->packed)
        return position & (queue->size - 1); /* which is a power of two */
    return position < queue->size ? position : position - queue->size;
}

static inline uint32_t advanced(const struct queue *queue, uint32_t position, uint32_t slots)
{
    position += slots;
    if (!queue->packed)
        return (uint16_t)position;
    return position < lap(queue) ? position : position - lap(queue);
}

/* Records: records.c */

enum { TAKEN = 1, GIVEN = 2 };
enum { HEAD_BYTES = 16, MAX_RECORDED = 64 }; /* descriptors of one chain */

/*
 * A unit of the ring of records. A chain that is given back is one unit, and `value` its length; a
 * chain that is taken is one unit, then HEAD_BYTES of what can be read of it first, then a unit for
 * each descriptor. Its `value` is how many bytes of the head there are, from bit 8 on how many
 * descriptors follow, and from bit 16 on how many the chain has.
 */
union unit {
    struct { uint64_t at; uint32_t value; uint16_t id, kind; } record;
    struct { uint64_t address; uint32_t length, flags; } descriptor;
    uint8_t head[HEAD_BYTES];
};

/*
 * A ring with one writer, who holds the work lock of the queue, and one reader, who needs none. A
 * record that has no room is counted in `lost`; positions run freely.
 */
struct records {
    uint64_t written, read, lost, pending;
    uint64_t mask; /* the size is a power of two */
    union unit unit[];
};

void record_taken(const struct queue *queue, const struct chain *chain, uint64_t at);
void record_plain(const struct queue *queue, const struct plain *plain, uint64_t at);
void record_given(const struct queue *queue, uint32_t id, uint32_t length, uint64_t at);
void publish_records(const struct queue *queue);
struct records *open_records(uint32_t units);
void close_records(struct records *records);
uint32_t read_records(struct records *records, uint8_t *to, uint32_t bytes);
uint64_t take_lost(struct records *records);

/* Batches: batch.c */

/*
 * A chain of any number of descriptors, the first `reads` to be read. `data` and `data_bytes` are
 * where in the window the first part to be written is, if it is there.
 *
 * `kind` says whether the chain is a frame: a header to read, data either way and a status byte to
 * write, one part each, and the last two in the window. Then `data` and `status` are where there,
 * and `header` is a copy.
 */
struct taken {
    uint64_t readable, writable; /* bytes */
    uint32_t head, id, slots, descriptors, reads, kind;
    uint64_t data, status;
    uint32_t data_bytes;
    uint8_t header[MAX_HEADER_BYTES];
};

/*
 * The wish given to exchange(), and its answer. The descriptors of the chains that are taken are in
 * the end behind them, one after the other, so that Python copies all of it at once, up to `stop`.
 */
struct exchange {
    uint32_t next_avail, next_used;                /* both ways */
    uint32_t count, stop;                          /* out */
    uint64_t given_at;                             /* out: when, by CLOCK_MONOTONIC */
    uint64_t bytes_read, bytes_written;            /* out: of what was given back */
    uint32_t given, entries, limit, header_bytes;  /* in */
    uint64_t wait_ns;                              /* in */
    uint32_t lengths[CHAINS];                      /* in: the bytes written to each that is given */
    struct taken taken[CHAINS];                    /* both: which are given, which are taken */
    struct plain copies[COPIES];
};

int exchange(struct queue *queue, struct exchange *exchange);
void get_rooms(const struct plain *plain, uint32_t count, uint32_t *rooms);
int publish_plain(struct queue *queue, const struct plain *plain, const uint32_t *lengths,
                  uint32_t count, struct served *served);

/* Devices: serve.c, and a file for each kind */

enum { BLOCK, ENTROPY, TRANSMIT, RECEIVE, KINDS };
enum { WIRE_BYTES = 256 << 10 }; /* that wait of one stream, either way */
enum { NONE, EVERY, OWN, LISTED }; /* of addresses: which frames the driver wants */

/*
 * Where packets of a queue pair pass: a descriptor, `framed` if it is a stream of frames behind
 * their lengths, else a tap. `allowed` is what the driver may leave unfinished, `network_takes` what
 * the network takes so, `guest_takes` what the driver does. While it is `stalled`, or `blocked`,
 * packets out, or in, are Python's; `ready` is whether something can be read. `out` holds what is
 * not written, `in` between `begin` and `end` what the guest has not got.
 */
struct wire {
    int fd;
    uint8_t framed, stalled, blocked, ready, mergeable;
    uint8_t everything, broadcast, unicast, multicast, by_vlan, mac[6];
    uint32_t allowed, network_takes, guest_takes, mtu; /* with the Ethernet header; 0 for none */
    uint32_t sending, begin, end;
    uint8_t *out, *in;
    uint64_t sent, received, filtered, unfit; /* counted, which the caller zeroes */
};

struct device {
    uint32_t kind;
    int fd;
    uint8_t writable; /* whether a write is done with the writing alone */
    uint8_t may_wait; /* whether a read may have to */
    uint64_t sectors;
    const struct generator *generator;
    struct wire *wire;
};

/* Serve one chain; returns the used length, or TO_PYTHON having done nothing that shows. */
enum { TO_PYTHON = -1 };
typedef int64_t serve_chain(const struct device *device, struct chain *chain);
serve_chain serve_block, serve_entropy, serve_transmit;
int serve_receive(struct queue *queue, struct wire *wire, uint32_t limit, struct served *served);
void flush_wire(struct wire *wire);

int serve(struct queue *queue, const struct device *device, uint32_t limit, uint64_t wait_ns,
          struct served *served);

enum { OK = 0 }; /* VIRTIO_BLK_S_OK */

struct generator *open_generator(int in_process);
void close_generator(struct generator *generator);
ssize_t random_bytes(const struct generator *generator, void *to, size_t bytes);

#endif
