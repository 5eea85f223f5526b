/*
 * The driver's side of one virtio-mmio device, for programs of the guest: registers and one queue,
 * both mapped through /dev/mem, and a request that block and entropy devices alike fulfil.
 *
 * All numbers are those of VIRTIO 1.4: "MMIO Device Register Layout", "Split Virtqueues", "Packed
 * Virtqueues".
 */

#include <stdint.h>
#include <string.h>

enum {
    MAGIC_VALUE = 0x000, DRIVER_FEATURES = 0x020, DRIVER_FEATURES_SEL = 0x024, QUEUE_SEL = 0x030,
    QUEUE_SIZE_MAX = 0x034, QUEUE_SIZE = 0x038, QUEUE_READY = 0x044, QUEUE_NOTIFY = 0x050,
    INTERRUPT_STATUS = 0x060, STATUS = 0x070, QUEUE_DESC = 0x080, QUEUE_DRIVER = 0x090,
    QUEUE_DEVICE = 0x0a0, QUEUE_RESET = 0x0c0, CONTROL_END = 0x100, WINDOW_BYTES = 0x1000,
};
enum {
    ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, NEEDS_RESET = 64, FAILED = 128,
    INTRODUCED = ACKNOWLEDGE | DRIVER, AGREED = INTRODUCED | FEATURES_OK, LIVE = AGREED | DRIVER_OK,
};
enum { NEXT = 1, WRITE = 2, INDIRECT = 4, AVAIL = 1 << 7 };

#define BIT(number) (1ull << (number))
#define VERSION_1 BIT(32)
#define WITH_INDIRECT (VERSION_1 | BIT(28))
#define PACKED (WITH_INDIRECT | BIT(34))
#define WITH_RING_RESET (VERSION_1 | BIT(40))

enum { SIZE = 64, LONGEST = 1025, ARENA_BYTES = 8 << 20, MMIO_HOLE = 0xc0001000 };
enum { HEADER_BYTES = 16, ANSWER_BYTES = 513, CHAINS = 32, BUFFER_BYTES = 4096 };

/* In the packed form the last two fields are the buffer id and the flags. */
struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

struct arena {
    struct descriptor table[4096 / 16];
    struct { uint16_t flags, index, ring[SIZE]; } available __attribute__((aligned(4096)));
    struct {
        uint16_t flags, index;
        struct { uint32_t id, length; } ring[SIZE];
    } used __attribute__((aligned(4096)));
    struct descriptor indirect[LONGEST] __attribute__((aligned(4096)));
    uint8_t header[BUFFER_BYTES] __attribute__((aligned(4096)));
    uint8_t buffers[CHAINS][BUFFER_BYTES];
};

static volatile uint8_t *window;
static volatile struct arena *arena;
static uint64_t memory, features;
static uint64_t random_state = 0x9e3779b97f4a7c15;

static struct { uint32_t size; uint64_t descriptors, driver, device; } layout;

/* Registers */

static uint64_t load(uint32_t offset, uint32_t width)
{
    switch (width) {
    case 1: return *(volatile uint8_t *)(window + offset);
    case 2: return *(volatile uint16_t *)(window + offset);
    case 4: return *(volatile uint32_t *)(window + offset);
    default: return *(volatile uint64_t *)(window + offset);
    }
}

static void store(uint32_t offset, uint32_t width, uint64_t value)
{
    switch (width) {
    case 1: *(volatile uint8_t *)(window + offset) = value; break;
    case 2: *(volatile uint16_t *)(window + offset) = value; break;
    case 4: *(volatile uint32_t *)(window + offset) = value; break;
    default: *(volatile uint64_t *)(window + offset) = value;
    }
}

static uint32_t get(uint32_t offset) { return load(offset, 4); }
static void put(uint32_t offset, uint32_t value) { store(offset, 4, value); }

/* Memory, time and chance */

static uint64_t physical(const volatile void *place)
{
    return memory + ((const volatile uint8_t *)place - (volatile uint8_t *)arena);
}

static void spin(uint64_t ticks)
{
    for (uint64_t start = __builtin_ia32_rdtsc(); __builtin_ia32_rdtsc() - start < ticks;)
        ;
}

/* Xorshift: the same storms in every run. */
static uint64_t chance(uint64_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % below;
}

/* A driver that keeps to the rules */

static void accept_features(uint64_t wanted)
{
    for (uint32_t word = 0; word < 2; word++) {
        put(DRIVER_FEATURES_SEL, word);
        put(DRIVER_FEATURES, wanted >> 32 * word);
    }
    features = wanted;
}

static void agree(uint64_t wanted)
{
    put(STATUS, 0);
    put(STATUS, ACKNOWLEDGE);
    put(STATUS, INTRODUCED);
    accept_features(wanted);
    put(STATUS, AGREED);
}

static void put_address(uint32_t offset, uint64_t address)
{
    put(offset, address);
    put(offset + 4, address >> 32);
}

static void enable_queue(void)
{
    put(QUEUE_SEL, 0);
    put(QUEUE_SIZE, layout.size);
    put_address(QUEUE_DESC, layout.descriptors);
    put_address(QUEUE_DRIVER, layout.driver);
    put_address(QUEUE_DEVICE, layout.device);
    put(QUEUE_READY, 1);
}

static void set(volatile struct descriptor *one, uint64_t address, uint32_t length, uint16_t flags,
                uint16_t next)
{
    one->address = address;
    one->length = length;
    one->flags = flags;
    one->next = next;
}

static void set_packed(uint32_t index, uint64_t address, uint32_t length, uint16_t flags)
{
    set(&arena->table[index], address, length, 0, flags | AVAIL);
}

/* Empty rings where they may be, and in the table the request. */
static void prepare_rings(void)
{
    memset((void *)arena, 0, sizeof *arena);
    layout.size = SIZE;
    layout.descriptors = physical(arena->table);
    layout.driver = physical(&arena->available);
    layout.device = physical(&arena->used);
    set(&arena->table[0], physical(arena->header), HEADER_BYTES, NEXT, 1);
    set(&arena->table[1], physical(arena->buffers), ANSWER_BYTES, WRITE, 0);
}

static void get_ready(uint64_t wanted)
{
    prepare_rings();
    agree(wanted);
    enable_queue();
}

static void go_live(uint64_t wanted)
{
    get_ready(wanted);
    put(STATUS, LIVE);
}

static void notify(void) { put(QUEUE_NOTIFY, 0); }

/* A packed request is offered by its own flags. */
static void offer(void)
{
    if (features != PACKED)
        arena->available.index++;
}

static uint32_t used_count(void)
{
    return features == PACKED ? arena->table[0].next >> 15 : arena->used.index;
}

/* Waits until all is used or the device gives up, and it has told so; not for ever. */
static void settle(void)
{
    uint64_t start = __builtin_ia32_rdtsc();
    uint32_t wanted = features == PACKED ? 1 : arena->available.index;
    while ((used_count() != wanted && !(get(STATUS) & NEEDS_RESET)) || !get(INTERRUPT_STATUS))
        if (__builtin_ia32_rdtsc() - start > BIT(35))
            return;
}

/* Gives the device time to do what it must not. */
static void linger(void) { spin(BIT(22)); }

static void request(void)
{
    offer();
    notify();
    settle();
}
