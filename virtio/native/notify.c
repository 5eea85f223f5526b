/*
 * Whether the driver wants to hear of what was given back. VIRTIO 1.4 "Used Buffer Notification
 * Suppression" and "Driver and Device Event Suppression".
 */

#include "native.h"

enum { NO_INTERRUPT = 1, EVENT_DISABLE = 1, EVENT_DESCRIPTOR = 2 };

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
