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

/*
 * Give back all that were taken. Returns MORE; or WRONG or IMPOSSIBLE, and has done nothing, for a
 * length without room, or for more entries than the device has.
 */
static enum end give_back(struct queue *queue, struct turn *turn)
{
    const struct taken *taken = turn->taken;
    uint64_t slots = 0;
    for (uint32_t i = 0; i < turn->given; i++) {
        if (turn->lengths[i] > taken[i].writable)
            return WRONG;
        slots += taken[i].slots;
    }
    if (slots < turn->given || slots > in_flight(queue))
        return IMPOSSIBLE;
    uint32_t position = queue->next_used;
    for (uint32_t i = 0; i < turn->given; i++) {
        position = add_unseen(queue, position, taken[i].id, taken[i].slots, turn->lengths[i]);
        turn->bytes_read += taken[i].readable;
        turn->bytes_written += turn->lengths[i];
    }
    turn->entries += slots;
    if (turn->given)
        show_used(queue, position, turn->lengths[0]);
    return MORE;
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
 * LEFT when Python has to take the next chain, or MORE; WRONG or IMPOSSIBLE, having done nothing.
 */
int turn(struct queue *queue, struct turn *turn)
{
    queue->next_avail = turn->next_avail;
    queue->next_used = turn->next_used;
    turn->count = 0;
    turn->bytes_read = turn->bytes_written = 0;
    if (!is_possible(queue) || turn->given > CHAINS || turn->limit > CHAINS)
        return IMPOSSIBLE;
    enum end given = give_back(queue, turn);
    if (given != MORE)
        return given;
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

