/*
 * What a trace is told of chains: a ring of records, which a reader empties at its own pace.
 *
 * A queue that nobody watches has no such ring, and pays for that with a test of a pointer. What a
 * chain is told of is copied before the chain is served, since that moves its vector, and published
 * when it was: one that is left to Python is told of there.
 */

#include "native.h"

#include <stdlib.h>
#include <string.h>

struct records *open_records(uint32_t units)
{
    if (!units || units & (units - 1))
        return NULL;
    struct records *records = calloc(1, sizeof *records + (size_t)units * sizeof(union unit));
    if (records)
        records->mask = units - 1;
    return records;
}

void close_records(struct records *records) { free(records); }

/* Return whether so many units have room behind those that are pending; else count a loss. */
static int has_room(struct records *records, uint32_t units)
{
    uint64_t used = records->written + records->pending - LOAD_FIRST(records->read);
    if (used + units <= records->mask + 1)
        return 1;
    __atomic_fetch_add(&records->lost, 1, __ATOMIC_RELAXED);
    return 0;
}

static union unit *next_unit(struct records *records)
{
    return &records->unit[(records->written + records->pending++) & records->mask];
}

static void add_record(struct records *records, uint64_t at, uint32_t value, uint32_t id,
                       uint16_t kind)
{
    union unit *unit = next_unit(records);
    unit->record.at = at;
    unit->record.value = value;
    unit->record.id = (uint16_t)id;
    unit->record.kind = kind;
}

static void add_head(struct records *records, const void *from, uint32_t bytes)
{
    union unit *unit = next_unit(records);
    memset(unit->head, 0, HEAD_BYTES);
    memcpy(unit->head, from, bytes);
}

static void add_descriptor(struct records *records, uint64_t address, uint32_t length,
                           uint32_t flags)
{
    union unit *unit = next_unit(records);
    unit->descriptor.address = address;
    unit->descriptor.length = length;
    unit->descriptor.flags = flags & WRITE;
}

/* Return where the guest has what the host has at an address that was found in a region. */
static uint64_t guest_address(const struct queue *queue, const void *host)
{
    for (uint32_t i = 0; i < queue->regions; i++) {
        const struct region *region = &queue->region[i];
        uint64_t offset = (uint64_t)((const uint8_t *)host - region->host);
        if ((const uint8_t *)host >= region->host && offset < region->end - region->start)
            return region->start + offset;
    }
    return 0;
}

/* Tell of a chain that was looked at, when it is taken: not before publish_records(). */
void record_taken(const struct queue *queue, const struct chain *chain, uint64_t at)
{
    struct records *records = queue->records;
    uint32_t total = chain->reads + chain->writes;
    uint32_t count = total < MAX_RECORDED ? total : MAX_RECORDED;
    if (!has_room(records, 2 + count))
        return;
    uint32_t head = chain->reads ? chain->vector[0].iov_len : 0;
    head = head < HEAD_BYTES ? head : HEAD_BYTES;
    add_record(records, at, head | count << 8 | total << 16, chain->id, TAKEN);
    add_head(records, chain->vector[0].iov_base, head);
    for (uint32_t i = 0; i < count; i++)
        add_descriptor(records, guest_address(queue, chain->vector[i].iov_base),
                       chain->vector[i].iov_len, i < chain->reads ? 0 : WRITE);
}

/* The same of a chain of one descriptor. */
void record_plain(const struct queue *queue, const struct plain *plain, uint64_t at)
{
    struct records *records = queue->records;
    if (!has_room(records, 3))
        return;
    uint32_t head = plain->flags & WRITE ? 0 : plain->length;
    head = head < HEAD_BYTES ? head : HEAD_BYTES;
    const uint8_t *from = host_address(queue, plain->address, head);
    head = from ? head : 0;
    add_record(records, at, head | 1 << 8 | 1 << 16, plain->id, TAKEN);
    add_head(records, from ? from : (const uint8_t *)"", head);
    add_descriptor(records, plain->address, plain->length, plain->flags);
}

void record_given(const struct queue *queue, uint32_t id, uint32_t length, uint64_t at)
{
    if (has_room(queue->records, 1))
        add_record(queue->records, at, length, id, GIVEN);
}

/* Let the reader see what is pending. */
void publish_records(const struct queue *queue)
{
    struct records *records = queue->records;
    uint64_t written = records->written + records->pending;
    records->pending = 0;
    STORE_LAST(records->written, written);
}

/* Move whole units to a buffer, whose size is a multiple of theirs; returns how many bytes. */
uint32_t read_records(struct records *records, uint8_t *to, uint32_t bytes)
{
    uint64_t read = records->read, waiting = LOAD_FIRST(records->written) - read;
    uint64_t room = bytes / sizeof(union unit), count = waiting < room ? waiting : room;
    uint64_t start = read & records->mask, until_end = records->mask + 1 - start;
    uint64_t first = count < until_end ? count : until_end;
    memcpy(to, &records->unit[start], first * sizeof(union unit));
    memcpy(to + first * sizeof(union unit), records->unit, (count - first) * sizeof(union unit));
    STORE_LAST(records->read, read + count);
    return (uint32_t)(count * sizeof(union unit));
}

/* Return how many records were lost since this was last asked. */
uint64_t take_lost(struct records *records)
{
    return __atomic_exchange_n(&records->lost, 0, __ATOMIC_RELAXED);
}
