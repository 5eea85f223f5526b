/*
 * The driver's side of one split queue of a device, polled: no interrupts.
 *
 * VIRTIO 1.4 "MMIO Device Register Layout", "Split Virtqueues", "Driver notifications".
 */

#include <stdint.h>

enum {
    MAGIC_VALUE = 0x000, VERSION = 0x004, DEVICE_ID = 0x008, DEVICE_FEATURES = 0x010,
    DEVICE_FEATURES_SEL = 0x014, DRIVER_FEATURES = 0x020, DRIVER_FEATURES_SEL = 0x024,
    QUEUE_SEL = 0x030, QUEUE_SIZE_MAX = 0x034, QUEUE_SIZE = 0x038, QUEUE_READY = 0x044,
    QUEUE_NOTIFY = 0x050, STATUS = 0x070, QUEUE_DESC = 0x080, QUEUE_DRIVER = 0x090,
    QUEUE_DEVICE = 0x0a0, CONFIG = 0x100,
};
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, NEEDS_RESET = 64 };
enum { NEXT = 1, WRITE = 2 };                 /* of a descriptor */
enum { NO_INTERRUPT = 1, NO_NOTIFY = 1 };     /* of the available and of the used ring */
enum { QUEUE_LIMIT = 256, VIRT = 0x74726976 };

#define EVENT_IDX (1ull << 29)
#define VERSION_1 (1ull << 32)

struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

/* After the ring's last entry stands used_event, and avail_event after that of the used ring. */
static struct {
    struct descriptor table[QUEUE_LIMIT];
    struct { uint16_t flags, index, ring[QUEUE_LIMIT + 1]; } available;
    struct {
        uint16_t flags, index;
        struct { uint32_t id, length; } ring[QUEUE_LIMIT + 1];
    } used __attribute__((aligned(4)));
} volatile queue __attribute__((aligned(4096)));

static volatile uint8_t *window;
static uint32_t queue_size, queue_number;
static int event_idx;
static uint16_t offered, published, collected;
static uint64_t kicks;

#include "pci.h"

static uint32_t get(uint32_t offset)
{
    return common ? get_from_pci(offset) : *(volatile uint32_t *)(window + offset);
}

static void put(uint32_t offset, uint32_t value)
{
    if (common)
        put_to_pci(offset, value);
    else
        *(volatile uint32_t *)(window + offset) = value;
}

static void put_address(uint32_t offset, volatile void *address)
{
    put(offset, (uint64_t)address);
    put(offset + 4, (uint64_t)address >> 32);
}

static uint64_t offered_features(void)
{
    put(DEVICE_FEATURES_SEL, 0);
    uint64_t features = get(DEVICE_FEATURES);
    put(DEVICE_FEATURES_SEL, 1);
    return features | (uint64_t)get(DEVICE_FEATURES) << 32;
}

static void negotiate(uint64_t required, uint64_t wanted)
{
    put(STATUS, 0);
    while (get(STATUS))
        ;
    put(STATUS, ACKNOWLEDGE);
    put(STATUS, ACKNOWLEDGE | DRIVER);
    uint64_t features = offered_features() & (required | wanted);
    if ((features & required) != required)
        fail("the device does not offer the features #, only #", required, features);
    put(DRIVER_FEATURES_SEL, 0);
    put(DRIVER_FEATURES, features);
    put(DRIVER_FEATURES_SEL, 1);
    put(DRIVER_FEATURES, features >> 32);
    put(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    if (!(get(STATUS) & FEATURES_OK))
        fail("the device refuses the features #", features);
    event_idx = !!(features & EVENT_IDX);
}

static void go_live(void)
{
    put(QUEUE_SEL, queue_number);
    queue_size = get(QUEUE_SIZE_MAX);
    if (queue_size > QUEUE_LIMIT)
        queue_size = QUEUE_LIMIT;
    offered = published = collected = 0;
    kicks = 0;
    queue.available.index = queue.used.index = queue.used.flags = 0;
    queue.available.flags = event_idx ? 0 : NO_INTERRUPT;
    queue.available.ring[queue_size] = -1;
    queue.used.ring[queue_size].id = 0;
    put(QUEUE_SIZE, queue_size);
    put_address(QUEUE_DESC, queue.table);
    put_address(QUEUE_DRIVER, &queue.available);
    put_address(QUEUE_DEVICE, &queue.used);
    put(QUEUE_READY, 1);
    put(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

/* The chain that begins at descriptor head goes into the ring; publish() shows it. */
static void offer(uint16_t head)
{
    queue.available.ring[offered % queue_size] = head;
    offered++;
}

static int wants_notification(uint16_t before)
{
    if (!event_idx)
        return !(queue.used.flags & NO_NOTIFY);
    uint16_t event = queue.used.ring[queue_size].id;
    return (uint16_t)(offered - event - 1) < (uint16_t)(offered - before);
}

static void publish(void)
{
    uint16_t before = published;
    if (offered == before)
        return;
    __asm__ volatile("" : : : "memory");
    queue.available.index = published = offered;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (wants_notification(before)) {
        kicks++;
        put(QUEUE_NOTIFY, queue_number);
    }
}

/* Takes the next used chain: its head and length. An event index far ahead asks for no interrupt. */
static int collect(uint32_t *head, uint32_t *length)
{
    if (queue.used.index == collected)
        return 0;
    __asm__ volatile("" : : : "memory");
    *head = queue.used.ring[collected % queue_size].id;
    *length = queue.used.ring[collected % queue_size].length;
    collected++;
    queue.available.ring[queue_size] = collected - 1;
    return 1;
}
