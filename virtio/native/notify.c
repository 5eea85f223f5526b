/*
 * Whether the driver wants to hear of what was given back. VIRTIO 1.4 "Used Buffer Notification
 * Suppression" and "Driver and Device Event Suppression".
 */

/*
 * The order of a store and a load, on both rings
 *
 * The problem. Driver and device each store a word and then load the other's:
 *
 *            device                                  driver
 *     store  used.idx, or the flags of a          store  its wish: flags, used_event, or the event
 *            packed descriptor                           suppression structure of a packed ring
 *     load   the driver's wish                    load   used.idx, or those flags
 *
 * The device stays silent if it finds no wish, and the driver goes to sleep if it finds nothing
 * used. Should each load miss the other side's store, both wait for ever: the lost wake-up that
 * SPL-41 and PKD-22 exclude. If on each side the store comes first, one of the loads sees a store.
 *
 * By itself it may come second. A processor puts a store into its store buffer and goes on, and a
 * load of another location is answered from the cache while the store is still there. Of the four
 * reorderings this is the one that x86-64 does (Intel SDM volume 3A, "Memory Ordering": "Loads May
 * Be Reordered with Earlier Stores to Different Locations"; AMD64 APM volume 2, "Memory Model").
 *
 * What does not work. STORE_LAST and LOAD_FIRST, which are release and acquire: release keeps what
 * is before it from moving behind it, acquire what is behind it from moving before it, and a store
 * followed by a load is neither; both compile to a plain mov. `volatile`, which binds the compiler
 * only. Loading the word just stored, which the store buffer answers. A lock of the host taken
 * before the store, for what counts is what is executed between the two.
 *
 * What we do. fence() is a full one (a locked instruction), which empties the store buffer before
 * the next load. Linux's driver has its counterpart: virtio_store_mb() in its
 * virtqueue_get_buf_ctx_split() and _packed(), virtio_mb() in virtqueue_poll()
 * (drivers/virtio/virtio_ring.c of 6.1). There is a fence for each look at the wish, and not for
 * each entry: a look is about all of the last `count` entries, those used since the look before.
 *
 * What needs none. Two stores stay in order, and two loads: a used entry before used.idx, or the
 * other fields of a packed descriptor before its flags, and of many descriptors the first one's
 * flags last (PKD-21); avail.idx before the available entry, flags before the other fields.
 * STORE_LAST and LOAD_FIRST keep the compiler from exchanging them, and cost nothing here.
 *
 * The same the other way round, asking to be kicked and then looking for chains (SPL-44, PKD-20):
 * request_notification(). virtio/virtqueue/fence.py says how Python gets a fence.
 *
 * What remains. On a machine with weaker ordering, release and acquire would become instructions,
 * and C might be right as it stands. Python's loads and stores of guest memory would be plain ones
 * on the same rings, though, and nobody has raced either (tests/spec/test_spl_races.py does here).
 * So nothing of this is built or run there.
 */

#include "native.h"

enum { NO_INTERRUPT = 1, NO_NOTIFY = 1 };
enum { EVENT_ENABLE = 0, EVENT_DISABLE = 1, EVENT_DESCRIPTOR = 2, EVENT_WRAP = 15 };

static void fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* Whether the driver wants to hear of the last `count` entries used. */
int wants_notification(const struct queue *queue, uint32_t count)
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
int has_to_tell(const struct queue *queue, struct served *served)
{
    if (served->entries && wants_notification(queue, served->entries))
        return 1;
    served->entries = 0;
    return 0;
}

/* Tell the driver that it need not kick; a hint only. */
void decline_notification(struct queue *queue)
{
    uint16_t *device = words(queue->device);
    if (queue->packed)
        STORE(device[1], EVENT_DISABLE);
    else if (!queue->event_idx) /* with it the stale avail_event keeps the driver quiet (SPL-43) */
        STORE(device[0], NO_NOTIFY);
}

/* Ask for a kick at the next chain; returns whether one is there already, or REFUSED. */
int request_notification(struct queue *queue)
{
    uint16_t *device = words(queue->device);
    if (!is_possible(queue))
        return REFUSED;
    if (queue->packed) {
        if (queue->event_idx) {
            uint16_t wrap = queue->next_avail < queue->size;
            STORE(device[0], entry_at(queue, queue->next_avail) | wrap << EVENT_WRAP);
        }
        STORE_LAST(device[1], queue->event_idx ? EVENT_DESCRIPTOR : EVENT_ENABLE);
    } else if (queue->event_idx) {
        STORE(device[2 + 4 * queue->size], queue->next_avail);
    } else {
        STORE(device[0], 0);
    }
    fence();
    return has_available(queue);
}
