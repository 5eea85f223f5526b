/*
 * Serving chains without Python: the loop that all kinds of devices share, and the table of them.
 * A kind is a row here, a file of its own, and its number and declarations in native.h.
 */

#include "native.h"

static serve_chain *const kinds[KINDS] = {
    [BLOCK] = serve_block,
    [ENTROPY] = serve_entropy,
    [TRANSMIT] = serve_transmit,
};

/*
 * Serve chains in their order, up to `limit` of them or STEP_BYTES of their data, and give each
 * back as soon as it is done. Without one, wait for the next for `wait_ns`, in one call for eight
 * times that at most. Returns why it stopped.
 */
int serve(struct queue *queue, const struct device *device, uint32_t limit, uint64_t wait_ns,
          struct served *served)
{
    int moves_packets = device->kind == TRANSMIT || device->kind == RECEIVE;
    if (!is_possible(queue) || device->kind >= KINDS || (moves_packets && !device->wire))
        return IMPOSSIBLE;
    if (device->kind == RECEIVE)
        return serve_receive(queue, device->wire, limit, served);
    struct chain chain;
    uint64_t bytes = 0, patience_ends = 0;
    int end = MORE;
    for (uint32_t count = 0; count < limit && bytes < STEP_BYTES; count++) {
        int found = look(queue, &chain, NULL);
        if (!found && !wait_ns) {
            end = IDLE;
            break;
        }
        if (!found) {
            if (device->kind == TRANSMIT)
                flush_wire(device->wire);
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
        bytes += chain.readable + chain.writable;
        if (queue->records && found > 0)
            record_taken(queue, &chain, nanoseconds());
        int64_t length = found < 0 ? TO_PYTHON : kinds[device->kind](device, &chain);
        if (length == TO_PYTHON) {
            if (queue->records)
                queue->records->pending = 0; /* Python takes the chain, and tells of it */
            end = LEFT;
            break;
        }
        if (queue->records) {
            record_given(queue, done.id, (uint32_t)length, nanoseconds());
            publish_records(queue);
        }
        queue->next_avail = advanced(queue, queue->next_avail, done.slots);
        add_used(queue, done, (uint32_t)length, served);
    }
    if (device->kind == TRANSMIT)
        flush_wire(device->wire);
    return end;
}
