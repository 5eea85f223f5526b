/*
 * One ring: which chains are available, taking one apart, and giving it back.
 *
 * The rules a chain has to keep are those of VIRTIO 1.4 "Split Virtqueues" and "Packed Virtqueues";
 * a chain that breaks one of them stays where it is, for Python to find.
 */

#include "native.h"

#include <string.h>
#include <time.h>

#define MAX_BYTES (1ull << 32) /* of one chain */

uint64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* Guest memory: each field loaded once */

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

/* Availability */

/* Return how many entries of the ring are with the device: taken, and not given back. */
uint32_t in_flight(const struct queue *queue)
{
    uint32_t entries = queue->next_avail - queue->next_used;
    if (!queue->packed)
        return (uint16_t)entries;
    return queue->next_avail < queue->next_used ? entries + lap(queue) : entries;
}

/* Return whether a queue can be of that size and at those positions. */
int is_possible(const struct queue *queue)
{
    uint32_t size = queue->size, end = queue->packed ? lap(queue) : UINT16_MAX + 1;
    return size && size <= MAX_SIZE && (queue->packed || !(size & (size - 1))) &&
           queue->next_avail < end && queue->next_used < end && in_flight(queue) <= size;
}

/* How many chains a split ring holds for us; more than the ring has room for breaks a rule. */
static uint32_t split_available(const struct queue *queue)
{
    return (uint16_t)(LOAD_FIRST(words(queue->driver)[1]) - queue->next_avail);
}

/* The flags of the entry at a position, or -1 unless it is available. */
static int packed_available(const struct queue *queue, uint32_t position)
{
    int second = position >= queue->size;
    uint32_t entry = second ? position - queue->size : position;
    uint16_t flags = LOAD_FIRST(words(queue->descriptors)[8 * entry + 7]);
    return (flags & (AVAIL | USED)) == (second ? USED : AVAIL) ? flags : -1;
}

int has_available(const struct queue *queue)
{
    return queue->packed ? packed_available(queue, queue->next_avail) >= 0
                         : split_available(queue) != 0;
}

/* Wait for the driver without sleeping; returns whether something is available, or REFUSED. */
int wait_available(const struct queue *queue, uint64_t wait_ns)
{
    if (!is_possible(queue))
        return REFUSED;
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
        chain->copies[number] =
            (struct plain){segment.address, segment.length, segment.flags, 0, 0};
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
    uint32_t most = room < MAX_DESCRIPTORS ? room : MAX_DESCRIPTORS;
    for (chain->slots = 1; chain->slots <= most; chain->slots++) {
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

/* Take the next chain apart; returns 1, 0 when none is available, or -1 to leave it to Python. */
int look(const struct queue *queue, struct chain *chain, struct plain *copies)
{
    chain->copies = copies;
    chain->slots = 1;
    chain->reads = chain->writes = 0;
    chain->readable = chain->writable = 0;
    int found = queue->packed ? look_packed(queue, chain) : look_split(queue, chain);
    return found > 0 && chain->readable + chain->writable > MAX_BYTES ? -1 : found;
}

/* Copy out the first bytes of what can be read; returns 0 when there are fewer. */
int copy_front(const struct chain *chain, void *to, size_t bytes)
{
    size_t done = 0;
    for (uint32_t i = 0; i < chain->reads && done < bytes; i++) {
        size_t part = chain->vector[i].iov_len, length = part < bytes - done ? part : bytes - done;
        memcpy((uint8_t *)to + done, chain->vector[i].iov_base, length);
        done += length;
    }
    return done == bytes;
}

/* Taking chains of one descriptor */

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

/*
 * Take up to `limit` chains as long as each is one descriptor inside a region; returns how many, or
 * REFUSED.
 */
int32_t take_plain(struct queue *queue, struct plain *plain, uint32_t limit)
{
    if (!is_possible(queue))
        return REFUSED;
    uint32_t count = queue->packed ? take_plain_packed(queue, plain, limit)
                                   : take_plain_split(queue, plain, limit);
    if (queue->records && count) {
        uint64_t now = nanoseconds();
        for (uint32_t i = 0; i < count; i++)
            record_plain(queue, &plain[i], now);
        publish_records(queue);
    }
    return count;
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
uint32_t add_unseen(const struct queue *queue, uint32_t position, uint32_t id, uint32_t slots,
                    uint32_t length)
{
    write_used(queue, position, id, length);
    if (queue->packed && position != queue->next_used)
        flag_used(queue, position, length);
    return advanced(queue, position, slots);
}

/* Let the driver see the entries up to a position with one last store, all of them at once. */
void show_used(struct queue *queue, uint32_t position, uint32_t first_length)
{
    uint32_t first = queue->next_used;
    queue->next_used = position;
    if (queue->packed)
        flag_used(queue, first, first_length);
    else
        STORE_LAST(words(queue->device)[1], (uint16_t)position);
}

/* Give one chain back, and count what it was. */
void add_used(struct queue *queue, struct done done, uint32_t length, struct served *served)
{
    show_used(queue, add_unseen(queue, queue->next_used, done.id, done.slots, length), length);
    served->chains++;
    served->entries += done.slots;
    served->bytes_read += done.readable;
    served->bytes_written += length;
}
