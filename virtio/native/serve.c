/*
 * Serving chains without Python: the loop that all kinds of devices share, and the table of them.
 * A kind is a row here, a file of its own, and its number and declarations in native.h.
 */

#include "native.h"

static const struct kind {
    serve_chain *serve;
    serve_rest *rest; /* of the chains that were NOT_YET, or NULL if none ever is */
} kinds[KINDS] = {
    [BLOCK] = {serve_block, serve_reads},
    [ENTROPY] = {serve_entropy, NULL},
};

/*
 * Serve chains in their order, up to `limit` of them or STEP_BYTES of their data, and give each
 * back as soon as it is done. Without one, wait for the next for `wait_ns`, in one call for eight
 * times that at most. Returns why it stopped.
 */
int serve(struct queue *queue, const struct device *device, uint32_t limit, uint64_t wait_ns,
          struct served *served)
{
    if (!is_possible(queue) || device->kind >= KINDS)
        return IMPOSSIBLE;
    const struct kind *kind = &kinds[device->kind];
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
        struct pending *later = kind->rest && !queue->in_order ? &pending[waiting] : NULL;
        bytes += chain.readable + chain.writable;
        int64_t length = found < 0 ? TO_PYTHON : kind->serve(device, &chain, later);
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
        kind->rest(queue, pending, waiting, served);
    return end;
}
