/*
 * Batches of chains for handlers in Python: taking many in one call, and giving all of them back
 * with one store that the driver sees.
 */

#include "native.h"

#include <string.h>

/* Batches of plain chains */

static uint32_t room(const struct plain *plain)
{
    return plain->flags & WRITE ? plain->length : 0;
}

/* Tell how many bytes of each chain the device may write. */
void get_rooms(const struct plain *plain, uint32_t count, uint32_t *rooms)
{
    for (uint32_t i = 0; i < count; i++)
        rooms[i] = room(&plain[i]);
}

/*
 * Give a whole batch back, the driver seeing all of it at once; adds up the bytes. Having done
 * nothing it returns 0 when a length exceeds what its chain had room for, or REFUSED.
 */
int publish_plain(struct queue *queue, const struct plain *plain, const uint32_t *lengths,
                  uint32_t count, struct served *served)
{
    uint64_t readable = 0, written = 0;
    if (!is_possible(queue) || !count || count > in_flight(queue))
        return REFUSED;
    for (uint32_t i = 0; i < count; i++) {
        if (lengths[i] > room(&plain[i]))
            return 0;
        readable += plain[i].flags & WRITE ? 0 : plain[i].length;
        written += lengths[i];
    }
    uint64_t now = queue->records ? nanoseconds() : 0;
    uint32_t position = queue->next_used;
    for (uint32_t i = 0; i < count; i++) {
        if (queue->records)
            record_given(queue, plain[i].id, lengths[i], now);
        position = add_unseen(queue, position, plain[i].id, 1, lengths[i]);
    }
    if (queue->records)
        publish_records(queue);
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
static int take_chains(struct queue *queue, struct exchange *exchange, struct plain **copies)
{
    struct chain chain;
    uint64_t now = queue->records ? nanoseconds() : 0;
    for (; exchange->count < exchange->limit; exchange->count++) {
        uint32_t head = queue->packed ? entry_at(queue, queue->next_avail) : 0;
        int has_room = *copies + MAX_DESCRIPTORS <= exchange->copies + COPIES;
        int found = has_room ? look(queue, &chain, *copies) : -1;
        if (found <= 0)
            return found ? LEFT : IDLE;
        uint32_t descriptors = chain.reads + chain.writes;
        if (queue->records) {
            record_taken(queue, &chain, now);
            publish_records(queue);
        }
        exchange->taken[exchange->count] = (struct taken){
            chain.readable, chain.writable, queue->packed ? head : chain.id, chain.id,
            chain.slots, descriptors, chain.reads, 0, 0, 0, 0, {0}};
        const struct plain *written = *copies + chain.reads;
        if (chain.writes && is_in_window(queue, written)) {
            exchange->taken[exchange->count].data = written->address - queue->window_start;
            exchange->taken[exchange->count].data_bytes = written->length;
        }
        *copies += descriptors;
        queue->next_avail = advanced(queue, queue->next_avail, chain.slots);
    }
    return MORE;
}

/*
 * Give back all that were taken. Returns MORE; or WRONG or IMPOSSIBLE, and has done nothing, for a
 * length without room, or for more entries than the device has.
 */
static enum end give_back(struct queue *queue, struct exchange *exchange)
{
    const struct taken *taken = exchange->taken;
    uint64_t slots = 0;
    for (uint32_t i = 0; i < exchange->given; i++) {
        if (exchange->lengths[i] > taken[i].writable)
            return WRONG;
        slots += taken[i].slots;
    }
    if (slots < exchange->given || slots > in_flight(queue))
        return IMPOSSIBLE;
    uint64_t now = queue->records && exchange->given ? nanoseconds() : 0;
    uint32_t position = queue->next_used;
    for (uint32_t i = 0; i < exchange->given; i++) {
        if (queue->records)
            record_given(queue, taken[i].id, exchange->lengths[i], now);
        position = add_unseen(queue, position, taken[i].id, taken[i].slots, exchange->lengths[i]);
        exchange->bytes_read += taken[i].readable;
        exchange->bytes_written += exchange->lengths[i];
    }
    if (queue->records)
        publish_records(queue);
    exchange->entries += slots;
    if (exchange->given)
        show_used(queue, position, exchange->lengths[0]);
    return MORE;
}

/* Find the frames of the chains that have been taken, and copy their headers out. */
static void find_frames(const struct queue *queue, struct exchange *exchange)
{
    const struct plain *copies = exchange->copies;
    for (uint32_t i = 0; i < exchange->count; i++) {
        uint32_t parts = exchange->taken[i].descriptors;
        const struct plain *header = copies, *data = copies + 1, *status = copies + parts - 1;
        struct taken *taken = &exchange->taken[i];
        copies += parts;
        if (parts < 2 || parts > 3 || header->flags & WRITE || !(status->flags & WRITE) ||
            header->length != exchange->header_bytes || status->length != 1 ||
            !is_in_window(queue, data) || !is_in_window(queue, status))
            continue;
        memcpy(taken->header, host_address(queue, header->address, header->length),
               exchange->header_bytes);
        taken->data = data->address - queue->window_start;
        taken->status = status->address - queue->window_start;
        taken->data_bytes = parts == 3 ? data->length : 0;
        taken->kind = parts == 3 && data->flags & WRITE ? DATA_IN : DATA_OUT;
    }
}

/*
 * Give back the chains taken last, the driver seeing all of them at once, and take the next,
 * waiting for `wait_ns` if there are none. If the driver wants to hear of those that were given
 * back, now or as the last `entries` before, it returns TELL, and takes none. It returns IDLE, or
 * LEFT when Python has to take the next chain, or MORE; WRONG or IMPOSSIBLE, having done nothing.
 */
int exchange(struct queue *queue, struct exchange *exchange)
{
    queue->next_avail = exchange->next_avail;
    queue->next_used = exchange->next_used;
    exchange->count = 0;
    exchange->bytes_read = exchange->bytes_written = 0;
    if (!is_possible(queue) || exchange->given > CHAINS || exchange->limit > CHAINS)
        return IMPOSSIBLE;
    enum end given = give_back(queue, exchange);
    if (given != MORE)
        return given;
    exchange->next_used = queue->next_used;
    exchange->given_at = nanoseconds();
    if (exchange->entries && wants_notification(queue, exchange->entries))
        return TELL;
    if (exchange->wait_ns && !wait_available(queue, exchange->wait_ns))
        return IDLE;
    struct plain *copies = exchange->copies;
    int end = take_chains(queue, exchange, &copies);
    exchange->next_avail = queue->next_avail;
    if (exchange->header_bytes && exchange->header_bytes <= MAX_HEADER_BYTES)
        find_frames(queue, exchange);
    size_t behind = offsetof(struct exchange, taken) + exchange->count * sizeof *exchange->taken;
    size_t bytes = (copies - exchange->copies) * sizeof *copies;
    memmove((uint8_t *)exchange + behind, exchange->copies, bytes);
    exchange->stop = behind + bytes;
    return end;
}

