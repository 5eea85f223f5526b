/*
 * What of a virtqueue cannot be fast, or not be right, in Python. VIRTIO 1.4 "Virtqueues".
 *
 * - Chains, taken many at a time; those of one descriptor also given back as a batch.
 * - Waiting for the driver on the processor, without the interpreter's lock.
 * - The data path of the block and the entropy device, from ring to disk and back.
 *
 * Each function has a twin in Python, which decides whatever is out of the ordinary: a chain that
 * breaks a rule, lies across regions of memory, or asks for anything but plain data is left in the
 * ring, and what Python finds there is answered by Python. So nothing here reports an error to the
 * driver, and a rule is written down once more only to tell what is ordinary.
 *
 * The rings and descriptors are shared with a driver that may rewrite them at any moment: every
 * field is loaded once, by one load, and only the copy is looked at. Positions are those of the
 * Python classes: free-running 16-bit indices of a split queue, 0 to 2 * size - 1 of a packed one.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define _FILE_OFFSET_BITS 64
#include <dlfcn.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { NEXT = 1, WRITE = 2, INDIRECT = 4, AVAIL = 1 << 7, USED = 1 << 15 };
enum { NO_INTERRUPT = 1, EVENT_DISABLE = 1, EVENT_DESCRIPTOR = 2 };
enum { MAX_DESCRIPTORS = 1024, MAX_REGIONS = 4, SECTOR = 512, STEP_BYTES = 8 << 20 };
enum { BLOCK, ENTROPY };
enum { OK = 0, IOERR = 1 };               /* VIRTIO_BLK_S_ */
enum { RANDOM_BYTES = 65536 };            /* for one chain at most */
enum { CHAINS = 256, COPIES = 2048, MAX_HEADER_BYTES = 64 };
enum { DATA_OUT = 1, DATA_IN = 2 };
enum { PENDING = 32, PENDING_PARTS = 64 }; /* reads that io_uring does together, and their parts */

#define MAX_BYTES (1ull << 32) /* of one chain */

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
    struct uring *uring; /* opened at the first read that has to wait for the disk */
};

/* A chain of one descriptor; or one descriptor of a chain, without head and id. */
struct plain {
    uint64_t address;
    uint32_t length;
    uint16_t flags, head, id;
};

/*
 * A chain of any number of them, the first `reads` to be read. `data` and `data_bytes` are where in
 * the window the first part to be written is, if it is there.
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
 * What turn() is told, and what it tells. The descriptors of the chains that are taken are in the
 * end behind them, one after the other, so that Python copies all of it at once, up to `stop`.
 */
struct turn {
    uint32_t next_avail, next_used;                /* both ways */
    uint32_t count, stop;                          /* out */
    uint64_t given_at;                             /* out: when, by CLOCK_MONOTONIC */
    uint32_t given, entries, limit, header_bytes;  /* in */
    uint64_t wait_ns;                              /* in */
    uint32_t lengths[CHAINS];                      /* in: the bytes written to each that is given */
    struct taken taken[CHAINS];                    /* both: which are given, which are taken */
    struct plain copies[COPIES];
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

/* What was served; counters that the caller zeroes. */
struct served {
    uint64_t chains, bytes_read, bytes_written;
    uint32_t entries; /* of the ring, since the driver's wish to be notified was looked at */
    uint32_t failed;  /* reads that the host could not do, answered with an error */
};

/* Why serve() stopped: there is nothing to do, the next chain is for Python, the driver has to be
 * told of what is done, or others shall have their turn. WRONG is turn()'s own. */
enum end { IDLE, LEFT, TELL, MORE, WRONG };

#define LOAD(place) __atomic_load_n(&(place), __ATOMIC_RELAXED)
#define LOAD_FIRST(place) __atomic_load_n(&(place), __ATOMIC_ACQUIRE)
#define STORE(place, value) __atomic_store_n(&(place), value, __ATOMIC_RELAXED)
#define STORE_LAST(place, value) __atomic_store_n(&(place), value, __ATOMIC_RELEASE)

static uint16_t *words(const uint8_t *area) { return (uint16_t *)area; }

static void fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

static uint64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* Guest memory */

static uint8_t *host_address(const struct queue *queue, uint64_t address, uint64_t length)
{
    for (uint32_t i = 0; i < queue->regions; i++) {
        const struct region *region = &queue->region[i];
        if (address >= region->start && address < region->end && length <= region->end - address)
            return region->host + (address - region->start);
    }
    return NULL;
}

static const uint8_t *entry_of(const uint8_t *table, uint32_t index)
{
    return table + 16 * (uint64_t)index;
}

static struct segment split_segment(const uint8_t *table, uint32_t index)
{
    const uint8_t *at = entry_of(table, index);
    uint64_t address = LOAD(*(uint64_t *)at);
    uint32_t length = LOAD(*(uint32_t *)(at + 8));
    uint16_t flags = LOAD(*(uint16_t *)(at + 12));
    return (struct segment){address, length, flags, LOAD(*(uint16_t *)(at + 14))};
}

/* The flags of an entry in a packed ring have been loaded first, to see that it is available. */
static struct segment packed_segment(const uint8_t *table, uint32_t index, uint16_t flags)
{
    const uint8_t *at = entry_of(table, index);
    uint64_t address = LOAD(*(uint64_t *)at);
    uint32_t length = LOAD(*(uint32_t *)(at + 8));
    return (struct segment){address, length, flags, LOAD(*(uint16_t *)(at + 12))};
}

/* What is available */

static uint32_t lap(const struct queue *queue) { return 2 * queue->size; }

static uint32_t in_flight(const struct queue *queue)
{
    if (!queue->packed)
        return (uint16_t)(queue->next_avail - queue->next_used);
    return (queue->next_avail + lap(queue) - queue->next_used) % lap(queue);
}

/* How many chains a split ring holds for us; more than the ring has room for breaks a rule. */
static uint32_t split_available(const struct queue *queue)
{
    return (uint16_t)(LOAD_FIRST(words(queue->driver)[1]) - queue->next_avail);
}

/* Which entry of its ring a position is; a division would take longer than all else here. */
static uint32_t entry_at(const struct queue *queue, uint32_t position)
{
    if (!queue->packed)
        return position & (queue->size - 1); /* which is a power of two */
    return position < queue->size ? position : position - queue->size;
}

static uint32_t advanced(const struct queue *queue, uint32_t position, uint32_t slots)
{
    position += slots;
    if (!queue->packed)
        return (uint16_t)position;
    return position < lap(queue) ? position : position - lap(queue);
}

/* The flags of the entry at a position, or -1 unless it is available. */
static int packed_available(const struct queue *queue, uint32_t position)
{
    int second = position >= queue->size;
    uint32_t entry = second ? position - queue->size : position;
    uint16_t flags = LOAD_FIRST(words(queue->descriptors)[8 * entry + 7]);
    return (flags & (AVAIL | USED)) == (second ? USED : AVAIL) ? flags : -1;
}

static int has_available(const struct queue *queue)
{
    return queue->packed ? packed_available(queue, queue->next_avail) >= 0
                         : split_available(queue) != 0;
}

/* Wait for the driver without sleeping; returns whether something is available. */
static int wait_available(const struct queue *queue, uint64_t wait_ns)
{
    uint64_t end = nanoseconds() + wait_ns;
    do {
        for (int i = 0; i < 64; i++) {
            if (has_available(queue))
                return 1;
            __builtin_ia32_pause();
        }
    } while (nanoseconds() < end);
    return 0;
}

/* Taking a chain apart */

static int add_segment(const struct queue *queue, struct chain *chain, struct segment segment)
{
    int writes = segment.flags & WRITE;
    uint8_t *host = host_address(queue, segment.address, segment.length);
    if (!host || !segment.length || (!writes && chain->writes))
        return 0;
    uint32_t number = chain->reads + chain->writes;
    chain->vector[number] = (struct iovec){host, segment.length};
    if (chain->copies)
        chain->copies[number] = (struct plain){segment.address, segment.length, segment.flags, 0, 0};
    if (writes) {
        chain->writes++;
        chain->writable += segment.length;
    } else {
        chain->reads++;
        chain->readable += segment.length;
    }
    return 1;
}

/* Follow `next` through a table of so many entries, up to the end or to an indirect descriptor. */
static int walk(const struct queue *queue, struct chain *chain, const uint8_t *table,
                uint32_t entries, uint32_t index, uint32_t *found, struct segment *indirect)
{
    for (uint32_t steps = 0; steps < entries; steps++) {
        if (index >= entries || ++*found > MAX_DESCRIPTORS)
            return 0;
        struct segment segment = split_segment(table, index);
        if (segment.flags & INDIRECT) {
            *indirect = segment;
            return indirect->length != 0 && !(segment.flags & NEXT);
        }
        if (!add_segment(queue, chain, segment))
            return 0;
        if (!(segment.flags & NEXT))
            return 1;
        index = segment.next;
    }
    return 0;
}

static const uint8_t *indirect_table(const struct queue *queue, struct segment pointer)
{
    if (!queue->indirect || !pointer.length || pointer.length % 16 ||
        pointer.length > 16 * MAX_DESCRIPTORS)
        return NULL;
    return host_address(queue, pointer.address, pointer.length);
}

/* Each returns 1 for a chain, 0 when none is available, -1 for one that Python has to look at. */

static int look_split(const struct queue *queue, struct chain *chain)
{
    uint32_t available = split_available(queue), found = 0;
    if (!available)
        return 0;
    if (available + in_flight(queue) > queue->size)
        return -1;
    uint16_t head = LOAD(words(queue->driver)[2 + entry_at(queue, queue->next_avail)]);
    struct segment indirect = {0}, nested = {0};
    chain->id = head;
    if (!walk(queue, chain, queue->descriptors, queue->size, head, &found, &indirect))
        return -1;
    if (!indirect.length)
        return 1;
    const uint8_t *table = indirect_table(queue, indirect);
    if (!table || !walk(queue, chain, table, indirect.length / 16, 0, &found, &nested))
        return -1;
    return nested.length ? -1 : 1;
}

static int look_packed(const struct queue *queue, struct chain *chain)
{
    uint32_t position = queue->next_avail, room = queue->size - in_flight(queue);
    int flags = packed_available(queue, position);
    if (flags < 0)
        return 0;
    for (chain->slots = 1; chain->slots <= room && chain->slots <= MAX_DESCRIPTORS; chain->slots++) {
        uint32_t entry = entry_at(queue, position);
        struct segment segment = packed_segment(queue->descriptors, entry, flags);
        chain->id = segment.next;
        if (flags & INDIRECT) {
            const uint8_t *table = indirect_table(queue, segment);
            if (!table || flags & NEXT || chain->slots > 1)
                return -1;
            for (uint32_t i = 0; i < segment.length / 16; i++) {
                uint16_t direction = LOAD(words(entry_of(table, i))[7]) & WRITE;
                if (!add_segment(queue, chain, packed_segment(table, i, direction)))
                    return -1;
            }
            return 1;
        }
        if (!add_segment(queue, chain, segment))
            return -1;
        if (!(flags & NEXT))
            return 1;
        position = advanced(queue, position, 1);
        if ((flags = packed_available(queue, position)) < 0)
            return -1;
    }
    return -1;
}

static int look(const struct queue *queue, struct chain *chain, struct plain *copies)
{
    chain->copies = copies;
    chain->slots = 1;
    chain->reads = chain->writes = 0;
    chain->readable = chain->writable = 0;
    int found = queue->packed ? look_packed(queue, chain) : look_split(queue, chain);
    return found > 0 && chain->readable + chain->writable > MAX_BYTES ? -1 : found;
}

/* Giving back */

static void write_used(const struct queue *queue, uint32_t position, uint32_t id, uint32_t length)
{
    if (queue->packed) {
        uint8_t *entry = queue->descriptors + 16 * (uint64_t)entry_at(queue, position);
        STORE(*(uint32_t *)(entry + 8), length);
        STORE(*(uint16_t *)(entry + 12), (uint16_t)id);
    } else {
        uint32_t *element = (uint32_t *)(queue->device + 4) + 2 * entry_at(queue, position);
        STORE(element[0], id);
        STORE(element[1], length);
    }
}

/* Show the driver the used entry of a packed queue. */
static void flag_used(const struct queue *queue, uint32_t position, uint32_t length)
{
    uint16_t flags = (position < queue->size ? AVAIL | USED : 0) | (length ? WRITE : 0);
    STORE_LAST(words(queue->descriptors)[8 * entry_at(queue, position) + 7], flags);
}

/* Write a used entry that the driver does not see before show_used(); returns the next position. */
static uint32_t add_unseen(const struct queue *queue, uint32_t position, uint32_t id,
                           uint32_t slots, uint32_t length)
{
    write_used(queue, position, id, length);
    if (queue->packed && position != queue->next_used)
        flag_used(queue, position, length);
    return advanced(queue, position, slots);
}

/* Let the driver see the entries up to a position with one last store, all of them at once. */
static void show_used(struct queue *queue, uint32_t position, uint32_t first_length)
{
    uint32_t first = queue->next_used;
    queue->next_used = position;
    if (queue->packed)
        flag_used(queue, first, first_length);
    else
        STORE_LAST(words(queue->device)[1], (uint16_t)position);
}

/* What is given back: a chain as the driver knows it, and the bytes on each of its sides. */
struct done {
    uint32_t id, slots;
    uint64_t readable;
};

static void add_used(struct queue *queue, struct done done, uint32_t length, struct served *served)
{
    show_used(queue, add_unseen(queue, queue->next_used, done.id, done.slots, length), length);
    served->chains++;
    served->entries += done.slots;
    served->bytes_read += done.readable;
    served->bytes_written += length;
}

/* Whether the driver wants to hear of the last `count` entries used. */
static int wants_notification(const struct queue *queue, uint32_t count)
{
    const uint16_t *driver = words(queue->driver);
    fence();
    if (!queue->packed) {
        if (!queue->event_idx)
            return !(LOAD(driver[0]) & NO_INTERRUPT);
        uint16_t event = LOAD(driver[2 + queue->size]);
        return (uint16_t)(queue->next_used - event - 1) < count;
    }
    uint16_t flags = LOAD(driver[1]) & 3;
    if (flags != EVENT_DESCRIPTOR || !queue->event_idx)
        return flags != EVENT_DISABLE;
    uint16_t event = LOAD(driver[0]), offset = event & 0x7fff;
    uint32_t position = event >> 15 ? offset : offset + queue->size;
    return offset < queue->size &&
           (queue->next_used + 2 * lap(queue) - position - 1) % lap(queue) < count;
}

/* Whether the driver wants to hear of what was given back; if not, it has been asked. */
static int has_to_tell(const struct queue *queue, struct served *served)
{
    if (served->entries && wants_notification(queue, served->entries))
        return 1;
    served->entries = 0;
    return 0;
}

/* Batches of plain chains */

static uint32_t take_plain_split(struct queue *queue, struct plain *plain, uint32_t limit)
{
    uint32_t available = split_available(queue), count = 0;
    if (available + in_flight(queue) > queue->size)
        return 0;
    for (; count < limit && count < available; count++) {
        uint16_t head = LOAD(words(queue->driver)[2 + entry_at(queue, queue->next_avail + count)]);
        if (head >= queue->size)
            break;
        struct segment one = split_segment(queue->descriptors, head);
        if (one.flags & (NEXT | INDIRECT) || !host_address(queue, one.address, one.length))
            break;
        plain[count] = (struct plain){one.address, one.length, one.flags, head, head};
    }
    queue->next_avail = (uint16_t)(queue->next_avail + count);
    return count;
}

static uint32_t take_plain_packed(struct queue *queue, struct plain *plain, uint32_t limit)
{
    uint32_t room = queue->size - in_flight(queue), count = 0, position = queue->next_avail;
    for (; count < limit && count < room; count++) {
        int flags = packed_available(queue, position);
        if (flags < 0 || flags & (NEXT | INDIRECT))
            break;
        uint32_t entry = entry_at(queue, position);
        struct segment one = packed_segment(queue->descriptors, entry, flags);
        if (!host_address(queue, one.address, one.length))
            break;
        plain[count] = (struct plain){one.address, one.length, flags, entry, one.next};
        position = advanced(queue, position, 1);
    }
    queue->next_avail = position;
    return count;
}

/* Take up to `limit` chains as long as each is one descriptor inside a region; returns how many. */
static uint32_t take_plain(struct queue *queue, struct plain *plain, uint32_t limit)
{
    return queue->packed ? take_plain_packed(queue, plain, limit)
                         : take_plain_split(queue, plain, limit);
}

static uint32_t room(const struct plain *plain)
{
    return plain->flags & WRITE ? plain->length : 0;
}

/* The bytes that each chain has for the device to write. */
static void get_rooms(const struct plain *plain, uint32_t count, uint32_t *rooms)
{
    for (uint32_t i = 0; i < count; i++)
        rooms[i] = room(&plain[i]);
}

/*
 * Give a whole batch back, the driver seeing all of it at once; adds up the bytes. Returns 0, and
 * has done nothing, when a length exceeds what its chain had room for.
 */
static int publish_plain(struct queue *queue, const struct plain *plain, const uint32_t *lengths,
                         uint32_t count, struct served *served)
{
    uint64_t readable = 0, written = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (lengths[i] > room(&plain[i]))
            return 0;
        readable += plain[i].flags & WRITE ? 0 : plain[i].length;
        written += lengths[i];
    }
    uint32_t position = queue->next_used;
    for (uint32_t i = 0; i < count; i++)
        position = add_unseen(queue, position, plain[i].id, 1, lengths[i]);
    show_used(queue, position, lengths[0]);
    served->chains += count;
    served->entries += count;
    served->bytes_read += readable;
    served->bytes_written += written;
    return 1;
}

/* Chains of any shape */

static int is_in_window(const struct queue *queue, const struct plain *part)
{
    return part->address >= queue->window_start &&
           part->address + part->length <= queue->window_end;
}

/* Take ordinary chains; returns LEFT when Python has to take the next one. */
static int take_chains(struct queue *queue, struct turn *turn, struct plain **copies)
{
    struct chain chain;
    for (; turn->count < turn->limit; turn->count++) {
        uint32_t head = queue->packed ? entry_at(queue, queue->next_avail) : 0;
        int has_room = *copies + MAX_DESCRIPTORS <= turn->copies + COPIES;
        int found = has_room ? look(queue, &chain, *copies) : -1;
        if (found <= 0)
            return found ? LEFT : IDLE;
        uint32_t descriptors = chain.reads + chain.writes;
        turn->taken[turn->count] = (struct taken){
            chain.readable, chain.writable, queue->packed ? head : chain.id, chain.id,
            chain.slots, descriptors, chain.reads, 0, 0, 0, 0, {0}};
        const struct plain *written = *copies + chain.reads;
        if (chain.writes && is_in_window(queue, written)) {
            turn->taken[turn->count].data = written->address - queue->window_start;
            turn->taken[turn->count].data_bytes = written->length;
        }
        *copies += descriptors;
        queue->next_avail = advanced(queue, queue->next_avail, chain.slots);
    }
    return MORE;
}

/* Give back all that were taken; returns 0, and has done nothing, for a length without room. */
static int give_back(struct queue *queue, struct turn *turn, struct served *served)
{
    const struct taken *taken = turn->taken;
    for (uint32_t i = 0; i < turn->given; i++)
        if (turn->lengths[i] > taken[i].writable)
            return 0;
    uint32_t position = queue->next_used;
    for (uint32_t i = 0; i < turn->given; i++) {
        position = add_unseen(queue, position, taken[i].id, taken[i].slots, turn->lengths[i]);
        turn->entries += taken[i].slots;
        served->bytes_read += taken[i].readable;
        served->bytes_written += turn->lengths[i];
    }
    served->chains += turn->given;
    if (turn->given)
        show_used(queue, position, turn->lengths[0]);
    return 1;
}

/* Find the frames of the chains that have been taken, and copy their headers out. */
static void find_frames(const struct queue *queue, struct turn *turn)
{
    const struct plain *copies = turn->copies;
    for (uint32_t i = 0; i < turn->count; i++) {
        uint32_t parts = turn->taken[i].descriptors;
        const struct plain *header = copies, *data = copies + 1, *status = copies + parts - 1;
        struct taken *taken = &turn->taken[i];
        copies += parts;
        if (parts < 2 || parts > 3 || header->flags & WRITE || !(status->flags & WRITE) ||
            header->length != turn->header_bytes || status->length != 1 ||
            !is_in_window(queue, data) || !is_in_window(queue, status))
            continue;
        memcpy(taken->header, host_address(queue, header->address, header->length),
               turn->header_bytes);
        taken->data = data->address - queue->window_start;
        taken->status = status->address - queue->window_start;
        taken->data_bytes = parts == 3 ? data->length : 0;
        taken->kind = parts == 3 && data->flags & WRITE ? DATA_IN : DATA_OUT;
    }
}

/*
 * Give back the chains of the last turn, the driver seeing all of them at once, and take the next,
 * waiting for `wait_ns` if there are none. If the driver wants to hear of those that were given
 * back, now or as the last `entries` before, it returns TELL, and takes none. It returns IDLE, or
 * LEFT when Python has to take the next chain, or MORE, or WRONG without having done anything.
 */
static int turn(struct queue *queue, struct turn *turn, struct served *served)
{
    queue->next_avail = turn->next_avail;
    queue->next_used = turn->next_used;
    turn->count = 0;
    if (!give_back(queue, turn, served))
        return WRONG;
    turn->next_used = queue->next_used;
    turn->given_at = nanoseconds();
    if (turn->entries && wants_notification(queue, turn->entries))
        return TELL;
    if (turn->wait_ns && !wait_available(queue, turn->wait_ns))
        return IDLE;
    struct plain *copies = turn->copies;
    int end = take_chains(queue, turn, &copies);
    turn->next_avail = queue->next_avail;
    if (turn->header_bytes && turn->header_bytes <= MAX_HEADER_BYTES)
        find_frames(queue, turn);
    size_t behind = offsetof(struct turn, taken) + turn->count * sizeof *turn->taken;
    size_t bytes = (copies - turn->copies) * sizeof *copies;
    memmove((uint8_t *)turn + behind, turn->copies, bytes);
    turn->stop = behind + bytes;
    return end;
}

/* Devices: one function each, which serves one chain and returns the used length, or what else */

enum { TO_PYTHON = -1, NOT_YET = -2 };

struct device {
    int kind;
    int fd;
    uint8_t writable; /* whether a write is done with the writing alone */
    uint64_t sectors;
    const struct generator *generator;
};

/* Copy out up to 16 bytes from the front of what can be read. */
static int copy_header(const struct chain *chain, uint8_t *header)
{
    size_t done = 0;
    for (uint32_t i = 0; i < chain->reads && done < 16; i++) {
        size_t length = chain->vector[i].iov_len < 16 - done ? chain->vector[i].iov_len : 16 - done;
        memcpy(header + done, chain->vector[i].iov_base, length);
        done += length;
    }
    return done == 16;
}

/* The data of a request: what is still to be moved between guest memory and file. */
struct transfer {
    int fd, writes;
    struct iovec *vector;
    uint32_t parts;
    uint64_t offset;
};

static void skip(struct transfer *transfer, size_t moved)
{
    transfer->offset += moved;
    for (; transfer->parts && moved >= transfer->vector->iov_len; transfer->parts--)
        moved -= transfer->vector++->iov_len;
    if (moved) {
        transfer->vector->iov_base = (uint8_t *)transfer->vector->iov_base + moved;
        transfer->vector->iov_len -= moved;
    }
}

/* Move all of it. With RWF_NOWAIT among the flags, stop with EAGAIN where the disk must be read. */
static int move(struct transfer *transfer, int flags)
{
    while (transfer->parts) {
        ssize_t moved = transfer->writes
            ? pwritev(transfer->fd, transfer->vector, transfer->parts, transfer->offset)
            : preadv2(transfer->fd, transfer->vector, transfer->parts, transfer->offset, flags);
        if (moved < 0 && errno == EINTR)
            continue;
        if (moved < 0 && errno == EOPNOTSUPP && flags) {
            flags = 0; /* a file system that cannot tell */
            continue;
        }
        if (moved <= 0) {
            errno = moved ? errno : EIO; /* the file ends before the disk does */
            return 0;
        }
        skip(transfer, moved);
    }
    return 1;
}

/* Reads that have to wait for the disk: io_uring(7) lets it see them all at once */

struct uring {
    int fd;
    uint32_t *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
    struct io_uring_sqe *entries;
    struct io_uring_cqe *completions;
    void *rings;
    size_t rings_bytes;
};

struct pending {
    struct done done;
    struct transfer transfer;
    struct iovec vector[PENDING_PARTS];
    uint8_t *status;
    uint64_t data_in;
};

static void close_uring(struct uring *uring)
{
    if (uring->rings != MAP_FAILED)
        munmap(uring->rings, uring->rings_bytes);
    if (uring->entries != MAP_FAILED)
        munmap(uring->entries, PENDING * sizeof *uring->entries);
    close(uring->fd);
    free(uring);
}

/* Returns NULL where the kernel does not have it, or does not let us. */
static struct uring *open_uring(void)
{
    struct io_uring_params about = {0};
    int fd = syscall(__NR_io_uring_setup, PENDING, &about);
    if (fd < 0)
        return NULL;
    struct uring *uring = calloc(1, sizeof *uring);
    if (!uring) {
        close(fd);
        return NULL;
    }
    size_t sq_bytes = about.sq_off.array + about.sq_entries * sizeof(uint32_t);
    size_t cq_bytes = about.cq_off.cqes + about.cq_entries * sizeof(struct io_uring_cqe);
    uring->fd = fd;
    uring->rings_bytes = sq_bytes > cq_bytes ? sq_bytes : cq_bytes;
    uring->rings = mmap(NULL, uring->rings_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                        IORING_OFF_SQ_RING);
    uring->entries = mmap(NULL, PENDING * sizeof *uring->entries, PROT_READ | PROT_WRITE,
                          MAP_SHARED, fd, IORING_OFF_SQES);
    if (uring->rings == MAP_FAILED || uring->entries == MAP_FAILED ||
        !(about.features & IORING_FEAT_SINGLE_MMAP)) {
        close_uring(uring);
        return NULL;
    }
    uint8_t *rings = uring->rings;
    uring->sq_tail = (uint32_t *)(rings + about.sq_off.tail);
    uring->sq_mask = (uint32_t *)(rings + about.sq_off.ring_mask);
    uring->sq_array = (uint32_t *)(rings + about.sq_off.array);
    uring->cq_head = (uint32_t *)(rings + about.cq_off.head);
    uring->cq_tail = (uint32_t *)(rings + about.cq_off.tail);
    uring->cq_mask = (uint32_t *)(rings + about.cq_off.ring_mask);
    uring->completions = (struct io_uring_cqe *)(rings + about.cq_off.cqes);
    return uring;
}

/*
 * Where random bytes come from: the system call, or since Linux 6.11 what the kernel gives each
 * process to execute for it, which takes half the time. Linux drivers/char/random.c "vgetrandom".
 */
struct generator {
    ssize_t (*function)(void *buffer, size_t bytes, unsigned flags, void *state, size_t size);
    void *state; /* for one thread at a time */
    size_t size;
};

static struct generator *open_generator(int in_process)
{
    struct { uint32_t size, protection, flags, reserved[13]; } wanted;
    struct generator *generator = calloc(1, sizeof *generator);
    void *vdso = in_process ? dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD) : NULL;
    if (generator && vdso)
        *(void **)&generator->function = dlsym(vdso, "__vdso_getrandom");
    if (generator && generator->function) {
        ssize_t error = generator->function(NULL, 0, 0, &wanted, ~(size_t)0);
        generator->state = error ? MAP_FAILED
                                 : mmap(NULL, wanted.size, wanted.protection, wanted.flags, -1, 0);
        generator->size = wanted.size;
        if (generator->state == MAP_FAILED)
            generator->function = NULL;
    }
    if (vdso)
        dlclose(vdso);
    return generator;
}

static void close_generator(struct generator *generator)
{
    if (generator && generator->function)
        munmap(generator->state, generator->size);
    free(generator);
}

/* Returns how many bytes were given, or minus the errno. */
static ssize_t random_bytes(const struct generator *generator, void *to, size_t bytes)
{
    ssize_t given;
    do {
        if (generator && generator->function)
            given = generator->function(to, bytes, 0, generator->state, generator->size);
        else if ((given = getrandom(to, bytes, 0)) < 0)
            given = -errno;
    } while (given == -EINTR);
    return given;
}

static void close_queue(struct queue *queue)
{
    if (queue->uring)
        close_uring(queue->uring);
    queue->uring = NULL;
}

static void finish(struct queue *queue, struct pending *pending, struct served *served, int good)
{
    STORE(*pending->status, good ? OK : IOERR);
    served->failed += !good;
    add_used(queue, pending->done, good ? pending->data_in + 1 : 0, served);
}

/* Put the reads into the submission ring. */
static void prepare(struct uring *uring, struct pending *pending, uint32_t count)
{
    uint32_t tail = *uring->sq_tail;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t place = (tail + i) & *uring->sq_mask;
        struct transfer *transfer = &pending[i].transfer;
        uring->entries[place] = (struct io_uring_sqe){
            .opcode = IORING_OP_READV,
            .fd = transfer->fd,
            .addr = (uintptr_t)transfer->vector,
            .len = transfer->parts,
            .off = transfer->offset,
            .user_data = i,
        };
        uring->sq_array[place] = place;
    }
    STORE_LAST(*uring->sq_tail, tail + count);
}

/* Give back each read that has completed; returns how many there were. */
static uint32_t reap(struct queue *queue, struct pending *pending, struct served *served)
{
    struct uring *uring = queue->uring;
    uint32_t head = *uring->cq_head, first = head;
    for (; head != LOAD_FIRST(*uring->cq_tail); STORE_LAST(*uring->cq_head, ++head)) {
        struct io_uring_cqe completion = uring->completions[head & *uring->cq_mask];
        struct pending *one = &pending[completion.user_data];
        if (completion.res > 0)
            skip(&one->transfer, completion.res);
        finish(queue, one, served, move(&one->transfer, 0));
    }
    return head - first;
}

/*
 * Have the kernel do the reads together; returns how many it took, in order, all of which are done.
 * One that refuses some is asked no more: what it did not take is still in its ring.
 */
static uint32_t serve_together(struct queue *queue, struct pending *pending, uint32_t count,
                               struct served *served)
{
    uint32_t taken = 0, done = 0;
    int refused = 0;
    prepare(queue->uring, pending, count);
    while (done < taken || (taken < count && !refused)) {
        int accepted = syscall(__NR_io_uring_enter, queue->uring->fd, refused ? 0 : count - taken, 1,
                               IORING_ENTER_GETEVENTS, NULL, 0);
        if (accepted > 0)
            taken += accepted;
        else if ((accepted == 0 || errno != EINTR) && taken < count)
            refused = 1;
        done += reap(queue, pending, served);
    }
    if (taken < count) {
        close_uring(queue->uring);
        queue->uring = NULL;
    }
    return taken;
}

/* Do the reads that would have made the others wait, and give them back. */
static void serve_pending(struct queue *queue, struct pending *pending, uint32_t count,
                          struct served *served)
{
    if (!queue->uring)
        queue->uring = open_uring();
    uint32_t taken = queue->uring ? serve_together(queue, pending, count, served) : 0;
    for (uint32_t i = taken; i < count; i++)
        finish(queue, &pending[i], served, move(&pending[i].transfer, 0));
}


/* VIRTIO 1.4 "Block Device Operation": struct virtio_blk_req, types IN (0) and OUT (1). */
static int64_t serve_block(const struct device *device, struct chain *chain,
                           struct pending *pending)
{
    struct { uint32_t type, reserved; uint64_t sector; } header;
    if (!chain->writable || !copy_header(chain, (uint8_t *)&header) || header.type > 1)
        return TO_PYTHON;
    int writes = header.type == 1;
    struct iovec *vector = writes ? chain->vector : chain->vector + chain->reads;
    uint32_t parts = writes ? chain->reads : chain->writes;
    uint64_t data_in = chain->writable - 1, length = writes ? chain->readable - 16 : data_in;
    struct iovec *last = &chain->vector[chain->reads + chain->writes - 1];
    uint8_t *status = (uint8_t *)last->iov_base + last->iov_len - 1;
    if (!length || length % SECTOR || length > STEP_BYTES || header.sector > device->sectors ||
        length / SECTOR > device->sectors - header.sector || (writes && !device->writable))
        return TO_PYTHON;
    struct transfer transfer = {device->fd, writes, vector, parts, header.sector * SECTOR};
    if (writes) {
        transfer.offset -= 16; /* where the header would be */
        skip(&transfer, 16);
    } else if (--last->iov_len == 0)
        transfer.parts--;
    if (!move(&transfer, pending ? RWF_NOWAIT : 0)) {
        if (writes || errno != EAGAIN || transfer.parts > PENDING_PARTS)
            return TO_PYTHON;
        pending->done = (struct done){chain->id, chain->slots, chain->readable};
        pending->transfer = transfer;
        pending->transfer.vector = pending->vector;
        memcpy(pending->vector, transfer.vector, transfer.parts * sizeof *pending->vector);
        pending->status = status;
        pending->data_in = data_in;
        return NOT_YET;
    }
    STORE(*status, OK);
    /* The status, being the last byte, counts only when the data before it is full (SPL-34). */
    return writes ? !data_in : (int64_t)data_in + 1;
}

/* VIRTIO 1.4 "Entropy Device": as many random bytes as there is room for, 64 KiB at most. */
static int64_t serve_entropy(const struct device *device, const struct chain *chain)
{
    size_t done = 0, left = chain->writable < RANDOM_BYTES ? chain->writable : RANDOM_BYTES;
    for (uint32_t i = chain->reads; left > 0; i++) {
        size_t length = chain->vector[i].iov_len < left ? chain->vector[i].iov_len : left;
        ssize_t given = random_bytes(device->generator, chain->vector[i].iov_base, length);
        if (given < 0)
            return TO_PYTHON;
        done += given;
        if ((size_t)given < length)
            break;
        left -= given;
    }
    return done || !chain->writable ? (int64_t)done : TO_PYTHON;
}

/*
 * Serve chains in their order, up to `limit` of them or STEP_BYTES of their data, and give each back
 * as soon as it is done. Without one it waits for the next for `wait_ns`, in one call for eight times
 * that at most. Returns why it stopped.
 */
static int serve(struct queue *queue, const struct device *device, uint32_t limit,
                 uint64_t wait_ns, struct served *served)
{
    struct chain chain;
    struct pending pending[PENDING];
    uint32_t waiting = 0;
    uint64_t bytes = 0, patience_ends = 0;
    int end = MORE;
    for (uint32_t count = 0; count < limit && waiting < PENDING && bytes < STEP_BYTES; count++) {
        int found = look(queue, &chain, NULL);
        if (!found && (waiting || !wait_ns)) {
            end = IDLE;
            break;
        }
        if (!found) {
            if (has_to_tell(queue, served)) {
                end = TELL;
                break;
            }
            uint64_t now = nanoseconds();
            patience_ends = patience_ends ? patience_ends : now + 8 * wait_ns;
            if (now > patience_ends)
                break;
            if (!wait_available(queue, wait_ns)) {
                end = IDLE;
                break;
            }
            continue; /* the driver may have taken it back */
        }
        struct done done = {chain.id, chain.slots, chain.readable};
        struct pending *later = queue->in_order ? NULL : &pending[waiting];
        bytes += chain.readable + chain.writable;
        int64_t length = found < 0               ? TO_PYTHON
                         : device->kind == BLOCK ? serve_block(device, &chain, later)
                                                 : serve_entropy(device, &chain);
        if (length == TO_PYTHON) {
            end = LEFT;
            break;
        }
        if (length == NOT_YET && !waiting && has_to_tell(queue, served)) {
            end = TELL; /* before the disk makes it wait; the read is begun anew after that */
            break;
        }
        queue->next_avail = advanced(queue, queue->next_avail, done.slots);
        if (length == NOT_YET)
            waiting++;
        else
            add_used(queue, done, (uint32_t)length, served);
    }
    if (waiting)
        serve_pending(queue, pending, waiting, served);
    return end;
}
