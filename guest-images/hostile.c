/*
 * A virtio driver that breaks the rules, for tests of the device under a real Linux.
 *
 *     hostile WINDOW MEMORY GROUP...
 *
 * WINDOW is the physical address of a virtio-mmio device that no driver of Linux is bound to,
 * MEMORY that of the last 8 MiB of RAM, which Linux must not use (boot it with "mem="). Both are
 * mapped through /dev/mem. Each abuse of a GROUP starts from a reset, and prints its name and what
 * the device shows then: its status, whether queue 0 is ready, how many buffers it used, its
 * interrupt status. In the end the device is left as Linux expects one without a driver: reset and
 * acknowledged.
 */

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "driver.h"

/* What an abuse saw beyond that; 0 where nothing went wrong. */
static uint32_t seen;

static void report(const char *name)
{
    put(QUEUE_SEL, 0);
    uint32_t status = get(STATUS);
    printf("%s status=%02x ready=%x used=%u interrupt=%x seen=%x\n", name, status,
           get(QUEUE_READY), used_count(), get(INTERRUPT_STATUS), seen);
}

/* Group "status": the order of initialization */

static void introduce(void)
{
    prepare_rings();
    put(STATUS, 0);
    put(STATUS, ACKNOWLEDGE);
    put(STATUS, INTRODUCED);
}

static void driver_ok_first(void) { put(STATUS, 0); put(STATUS, DRIVER_OK); }
static void features_without_driver(void)
{
    put(STATUS, 0);
    put(STATUS, ACKNOWLEDGE);
    put(STATUS, ACKNOWLEDGE | FEATURES_OK);
}
static void driver_ok_without_features(void) { put(STATUS, INTRODUCED | DRIVER_OK); }
static void undefined_bits(void) { put(STATUS, INTRODUCED | 0x20); put(STATUS, INTRODUCED | 0x10); }
static void device_bit(void) { put(STATUS, INTRODUCED | NEEDS_RESET); }
static void no_version_1(void) { put(STATUS, AGREED); }
static void unknown_feature(void) { accept_features(VERSION_1 | BIT(44)); put(STATUS, AGREED); }
static void feature_word_7(void)
{
    accept_features(VERSION_1);
    put(DRIVER_FEATURES_SEL, 7);
    put(DRIVER_FEATURES, 1);
    put(STATUS, AGREED);
}
static void cleared_bits(void) { go_live(VERSION_1); put(STATUS, ACKNOWLEDGE); request(); }
static void late_features(void)
{
    go_live(VERSION_1);
    accept_features(0);
    request();
}
static void failed(void)
{
    go_live(VERSION_1);
    put(STATUS, LIVE | FAILED);
    put(STATUS, LIVE);
    offer();
    notify();
    linger();
}

/* Group "notify" */

static void early_notify(void)
{
    agree(VERSION_1);
    enable_queue();
    offer();
    notify();
    linger();
    seen = used_count();
    put(STATUS, LIVE);
    settle();
}
static void absent_queues(void)
{
    go_live(VERSION_1);
    for (uint32_t bit = 0; bit < 32; bit++)
        put(QUEUE_NOTIFY, 2u << bit | 1u << bit | 0x100);
    request();
}
static void queue_not_ready(void)
{
    agree(VERSION_1);
    put(STATUS, LIVE);
    notify();
}
static void empty_queue(void)
{
    go_live(VERSION_1);
    for (uint32_t count = 0; count < 10000; count++)
        notify();
    request();
}

/* Group "queues": queue registers out of turn */

static void rewrite_live(void)
{
    go_live(VERSION_1);
    put(QUEUE_SIZE, 2);
    put_address(QUEUE_DESC, MMIO_HOLE);
    put_address(QUEUE_DRIVER, 1);
    put_address(QUEUE_DEVICE, ~0ull);
    put(QUEUE_READY, 1);
    put(QUEUE_READY, 2);
    request();
}
static void ready_before_features(void) { introduce(); enable_queue(); }
static void ready_again(void)
{
    go_live(VERSION_1);
    request();
    enable_queue();
    request();
}
static void absent_queue(void)
{
    go_live(VERSION_1);
    put(QUEUE_SEL, 9999);
    put(QUEUE_SIZE, 2);
    put(QUEUE_READY, 0);
    put(QUEUE_READY, 1);
    seen = get(QUEUE_READY) + get(QUEUE_SIZE_MAX);
    request();
}
static void late_queue(void)
{
    agree(VERSION_1);
    put(STATUS, LIVE);
    enable_queue();
    request();
}
static void queue_reset_unasked(void) { go_live(VERSION_1); put(QUEUE_RESET, 1); request(); }
static void reset_and_reuse(void)
{
    go_live(WITH_RING_RESET);
    request();
    put(QUEUE_RESET, 1);
    seen = get(QUEUE_RESET) + get(QUEUE_READY);
    prepare_rings();
    layout.size = 4;
    enable_queue();
    request();
}

/* Group "geometry": rings where none can be. The layout is changed, then the queue enabled. */

static void size_0(void) { layout.size = 0; }
static void size_3(void) { layout.size = 3; }
static void size_doubled(void) { layout.size = 2 * get(QUEUE_SIZE_MAX); }
static void size_huge(void) { layout.size = 0xffffffff; }
static void descriptors_misaligned(void) { layout.descriptors += 8; }
static void available_misaligned(void) { layout.driver += 1; }
static void used_misaligned(void) { layout.device += 2; }
static void descriptors_in_hole(void) { layout.descriptors = MMIO_HOLE; }
static void available_past_ram(void) { layout.driver = memory + ARENA_BYTES - 16; }
static void used_wraps(void) { layout.device = -16ull; }

/* Groups "chains" and "indirect": a good request is spoiled before the device may look at it. */

static void go_live_with_request(void)
{
    offer();
    put(STATUS, LIVE);
    notify();
    settle();
}

static void self_loop(void) { set(&arena->table[1], physical(arena->buffers), 8, NEXT | WRITE, 1); }
static void two_cycle(void)
{
    set(&arena->table[1], physical(arena->header), 8, NEXT, 2);
    set(&arena->table[2], physical(arena->header), 8, NEXT, 1);
}
static void next_past_table(void) { arena->table[0].next = SIZE; }
static void head_past_table(void) { arena->available.ring[0] = SIZE; }
static void index_jump(void) { arena->available.index = SIZE; }
static void index_backwards(void) { arena->available.index = 0xfffe; }
static void readable_after_writable(void)
{
    arena->table[1].flags |= NEXT;
    arena->table[1].next = 2;
    set(&arena->table[2], physical(arena->header), HEADER_BYTES, 0, 0);
}
static void segment_in_hole(void) { arena->table[1].address = MMIO_HOLE; }
static void segment_wraps(void) { arena->table[1].address = -256ull; }
static void too_many_bytes(void)
{
    for (uint32_t index = 0; index < 40; index++)
        set(&arena->table[index], 0, 128 << 20, NEXT, index + 1);
    set(&arena->table[40], physical(arena->buffers), ANSWER_BYTES, WRITE, 0);
}

/* Puts the good request into the indirect table. */
static void move_to_table(uint32_t bytes)
{
    set(&arena->indirect[0], physical(arena->header), HEADER_BYTES, NEXT, 1);
    set(&arena->indirect[1], physical(arena->buffers), ANSWER_BYTES, WRITE, 0);
    set(&arena->table[0], physical(arena->indirect), bytes, INDIRECT, 0);
}
static void good_table(void)
{
    get_ready(WITH_INDIRECT);
    move_to_table(32);
    go_live_with_request();
}
static void table_unasked(void) { get_ready(VERSION_1); move_to_table(32); }
static void table_with_next(void) { move_to_table(32); arena->table[0].flags |= NEXT; }
static void nested_table(void) { move_to_table(32); arena->indirect[1].flags = INDIRECT; }
static void table_of_0(void) { move_to_table(0); }
static void table_of_8(void) { move_to_table(8); }
static void table_of_24(void) { move_to_table(24); }
static void table_in_hole(void) { move_to_table(32); arena->table[0].address = MMIO_HOLE; }
static void table_too_short(void) { move_to_table(48); arena->indirect[0].next = 3; }
static void table_loop(void) { move_to_table(32); arena->indirect[0].next = 0; }
static void table_too_long(void)
{
    move_to_table(16 * LONGEST);
    for (uint32_t index = 0; index < LONGEST; index++)
        set(&arena->indirect[index], physical(arena->header), 1, NEXT, index + 1);
}

/* Group "packed" */

static void packed_request(void)
{
    set_packed(1, physical(arena->buffers), ANSWER_BYTES, WRITE);
    set_packed(0, physical(arena->header), HEADER_BYTES, NEXT);
}
static void good_packed(void)
{
    get_ready(PACKED);
    packed_request();
    go_live_with_request();
}
static void packed_endless(void)
{
    for (uint32_t index = 0; index < SIZE; index++)
        set_packed(index, physical(arena->header), 1, NEXT);
}
static void packed_unavailable(void) { packed_request(); arena->table[1].next = WRITE; }
static void packed_table_in_list(void)
{
    packed_request();
    set_packed(1, physical(arena->indirect), 32, INDIRECT);
}
static void packed_table(uint64_t address, uint32_t bytes)
{
    arena->indirect[1].next = WRITE;
    set_packed(0, address, bytes, INDIRECT);
}
static void packed_table_of_0(void) { packed_table(physical(arena->indirect), 0); }
static void packed_table_of_24(void) { packed_table(physical(arena->indirect), 24); }
static void packed_table_in_hole(void) { packed_table(MMIO_HOLE, 32); }
static void packed_readable_after_writable(void)
{
    packed_request();
    set_packed(0, physical(arena->buffers), ANSWER_BYTES, NEXT | WRITE);
    set_packed(1, physical(arena->header), HEADER_BYTES, 0);
}
static void packed_segment_wraps(void) { packed_request(); arena->table[1].address = -256ull; }

/* Group "widths": accesses that are no register's */

static void odd_reads(void)
{
    for (uint32_t offset = 0; offset < CONTROL_END - 8; offset++) {
        seen |= load(offset, 1) | load(offset, 2) | load(offset, 8);
        if (offset % 4)
            seen |= get(offset);
    }
}
static void odd_status_writes(void)
{
    go_live(VERSION_1);
    store(STATUS, 1, 0);
    store(STATUS, 2, 0);
    store(STATUS, 8, 0);
    for (uint32_t offset = STATUS - 3; offset < STATUS + 4; offset++)
        if (offset != STATUS)
            put(offset, 0);
    request();
}
static void across_the_end(void)
{
    go_live(VERSION_1);
    for (uint32_t offset = WINDOW_BYTES - 7; offset < WINDOW_BYTES; offset++) {
        store(offset, 8, -1);
        seen |= load(offset, 8) & 0;
    }
    request();
}
static void sixteen_bytes(void)
{
    go_live(VERSION_1);
    uint64_t zero[2] = {0, 0};
    __asm__ volatile("movups %0, %%xmm0; movups %%xmm0, %1; movups %1, %%xmm0"
                     : : "m"(zero), "m"(window[STATUS]) : "xmm0", "memory");
    request();
}
static void string_copy(void)
{
    go_live(VERSION_1);
    void *to = (void *)(window + MAGIC_VALUE), *from = (void *)arena->buffers;
    uint64_t count = CONTROL_END;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    request();
}
static void read_and_write(void)
{
    go_live(VERSION_1);
    __asm__ volatile("lock incl %0; lock orl $0x30, %0" : "+m"(window[STATUS]) : : "memory");
    request();
}

/* Group "storm" */

/* The rings of a storm lie apart from each other, so that no used ring becomes a descriptor. */
static uint64_t safe_address(uint32_t offset)
{
    return memory + ((offset >> 4 & 3) + 1) * BIT(20) + chance(BIT(16));
}

static void random_accesses(void)
{
    for (uint32_t round = 0; round < 400; round++) {
        go_live(chance(2) ? PACKED : VERSION_1);
        for (uint32_t count = 0; count < 32; count++) {
            uint32_t offset = chance(0x180), width = chance(4) ? 4 : 1u << chance(4);
            offset &= chance(8) ? ~3u : ~0u;
            uint64_t value = chance(2) ? chance(16) : chance(BIT(32));
            if (offset >= QUEUE_DESC - 7 && offset < QUEUE_DEVICE + 8)
                value = safe_address(offset);
            chance(2) ? (void)load(offset, width) : store(offset, width, value);
        }
    }
    put(STATUS, 0);
    prepare_rings();
}

static uint64_t random_buffer(void)
{
    uint64_t strange[] = {MMIO_HOLE, -chance(64), memory + ARENA_BYTES - chance(64), BIT(63)};
    return chance(16) ? physical(arena->buffers) + chance(16384) : strange[chance(4)];
}

static void random_descriptors(volatile struct descriptor *table, uint32_t count)
{
    for (uint32_t index = 0; index < count; index++) {
        uint16_t flags = chance(4) ? chance(4) : chance(8) | chance(BIT(16)) << 3;
        uint64_t address = random_buffer();
        if (flags & INDIRECT)
            address = physical(arena->indirect) + 16 * chance(LONGEST);
        set(table + index, address, chance(BIT(chance(14))), flags, chance(SIZE + 1));
    }
}

static void random_rings(void)
{
    for (uint32_t round = 0; round < 400; round++) {
        go_live(WITH_INDIRECT);
        random_descriptors(arena->table, SIZE);
        random_descriptors(arena->indirect, LONGEST);
        for (uint32_t index = 0; index < SIZE; index++)
            arena->available.ring[index] = chance(SIZE + 1);
        arena->available.index = chance(SIZE + 2);
        notify();
        spin(chance(BIT(21)));
    }
    put(STATUS, 0);
    prepare_rings();
}

/* Group "reset": the device is stopped right after a notification, and must stay quiet then. */

static void stop_device(void) { put(STATUS, 0); }
static void stop_by_queue_reset(void) { put(QUEUE_RESET, 1); }
static void stop_by_ready(void) { put(QUEUE_READY, 0); }

static void offer_all(void)
{
    for (uint32_t chain = 0; chain < CHAINS; chain++) {
        uint32_t first = 2 * chain;
        set(&arena->table[first], physical(arena->header), HEADER_BYTES, NEXT, first + 1);
        set(&arena->table[first + 1], physical(arena->buffers[chain]), 3585, WRITE, 0);
        arena->available.ring[chain] = first;
    }
    arena->available.index = CHAINS;
}

static uint32_t moved_later(void)
{
    uint16_t count = arena->used.index;
    memset((void *)arena->buffers, 0x5a, sizeof arena->buffers);
    for (uint32_t pause = 0; pause < 3; pause++) {
        get(MAGIC_VALUE);
        spin(chance(BIT(18)));
    }
    const uint8_t *bytes = (const uint8_t *)arena->buffers;
    int same = bytes[0] == 0x5a && !memcmp(bytes, bytes + 1, sizeof arena->buffers - 1);
    return !same || arena->used.index != count;
}

/* What is seen is the number of rounds in which something changed later. */
static void stop_under_load(uint32_t rounds, void (*stop)(void))
{
    uint32_t before = 0, after = 0;
    for (uint32_t round = 0; round < rounds; round++) {
        go_live(WITH_RING_RESET);
        offer_all();
        notify();
        spin(chance(BIT(16 + chance(6))));
        stop();
        before += arena->used.index == 0;
        after += arena->used.index > 0;
        seen += moved_later();
    }
    printf("# %u rounds, %u stopped before and %u after a request\n", rounds, before, after);
    put(STATUS, 0);
    arena->used.index = 0;
}
static void reset_under_load(void) { stop_under_load(2000, stop_device); }
static void queue_reset_under_load(void) { stop_under_load(500, stop_by_queue_reset); }
static void ready_0_under_load(void) { stop_under_load(500, stop_by_ready); }

/* A good request, to see whether the device works after all that. */
static void afterwards(void) { go_live(VERSION_1); request(); }

static void ready_split(void) { get_ready(VERSION_1); }
static void ready_indirect(void) { get_ready(WITH_INDIRECT); }
static void ready_packed(void) { get_ready(PACKED); }
static void agreed(void) { prepare_rings(); agree(VERSION_1); }
static void nothing(void) { }

struct group {
    const char *name;
    void (*before)(void), (*after)(void);
    struct { const char *name; void (*act)(void); } abuses[16];
};

#define ABUSE(function) {#function, function}

static const struct group groups[] = {
    {"status", introduce, nothing,
     {ABUSE(driver_ok_first), ABUSE(features_without_driver), ABUSE(driver_ok_without_features),
      ABUSE(undefined_bits), ABUSE(device_bit), ABUSE(no_version_1), ABUSE(unknown_feature),
      ABUSE(feature_word_7), ABUSE(cleared_bits), ABUSE(late_features), ABUSE(failed)}},
    {"notify", prepare_rings, nothing,
     {ABUSE(early_notify), ABUSE(absent_queues), ABUSE(queue_not_ready), ABUSE(empty_queue)}},
    {"queues", prepare_rings, nothing,
     {ABUSE(rewrite_live), ABUSE(ready_before_features), ABUSE(ready_again), ABUSE(absent_queue),
      ABUSE(late_queue), ABUSE(queue_reset_unasked), ABUSE(reset_and_reuse)}},
    {"geometry", agreed, enable_queue,
     {ABUSE(size_0), ABUSE(size_3), ABUSE(size_doubled), ABUSE(size_huge),
      ABUSE(descriptors_misaligned), ABUSE(available_misaligned), ABUSE(used_misaligned),
      ABUSE(descriptors_in_hole), ABUSE(available_past_ram), ABUSE(used_wraps)}},
    {"chains", ready_split, go_live_with_request,
     {ABUSE(self_loop), ABUSE(two_cycle), ABUSE(next_past_table), ABUSE(head_past_table),
      ABUSE(index_jump), ABUSE(index_backwards), ABUSE(readable_after_writable),
      ABUSE(segment_in_hole), ABUSE(segment_wraps), ABUSE(too_many_bytes)}},
    {"good", nothing, nothing, {ABUSE(good_table), ABUSE(good_packed)}},
    {"indirect", ready_indirect, go_live_with_request,
     {ABUSE(table_unasked), ABUSE(table_with_next), ABUSE(nested_table), ABUSE(table_of_0),
      ABUSE(table_of_8), ABUSE(table_of_24), ABUSE(table_in_hole), ABUSE(table_too_short),
      ABUSE(table_loop), ABUSE(table_too_long)}},
    {"packed", ready_packed, go_live_with_request,
     {ABUSE(packed_endless), ABUSE(packed_unavailable),
      ABUSE(packed_table_in_list), ABUSE(packed_table_of_0), ABUSE(packed_table_of_24),
      ABUSE(packed_table_in_hole), ABUSE(packed_readable_after_writable),
      ABUSE(packed_segment_wraps)}},
    {"widths", agreed, nothing,
     {ABUSE(odd_reads), ABUSE(odd_status_writes), ABUSE(across_the_end), ABUSE(sixteen_bytes),
      ABUSE(string_copy), ABUSE(read_and_write)}},
    {"storm", prepare_rings, nothing,
     {ABUSE(random_accesses), ABUSE(random_rings), ABUSE(afterwards)}},
    {"reset", prepare_rings, nothing,
     {ABUSE(reset_under_load), ABUSE(queue_reset_under_load), ABUSE(ready_0_under_load),
      ABUSE(afterwards)}},
};

static void run(const struct group *group)
{
    for (uint32_t index = 0; index < 16 && group->abuses[index].act; index++) {
        seen = 0;
        features = 0;
        group->before();
        group->abuses[index].act();
        group->after();
        report(group->abuses[index].name);
    }
}

static const struct group *find_group(const char *name)
{
    for (uint32_t index = 0; index < sizeof groups / sizeof *groups; index++)
        if (!strcmp(groups[index].name, name))
            return &groups[index];
    fprintf(stderr, "hostile: no group %s\n", name);
    exit(2);
}

static volatile void *map(const char *address, size_t length)
{
    int fd = open("/dev/mem", O_RDWR);
    void *found = mmap(0, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, strtoull(address, 0, 0));
    if (found == MAP_FAILED) {
        perror(address);
        exit(2);
    }
    return found;
}

int main(int count, char **arguments)
{
    if (count < 4) {
        fputs("usage: hostile WINDOW MEMORY GROUP...\n", stderr);
        return 2;
    }
    window = map(arguments[1], 2 * WINDOW_BYTES);
    arena = map(arguments[2], ARENA_BYTES);
    memory = strtoull(arguments[2], 0, 0);
    for (int index = 3; index < count; index++)
        run(find_group(arguments[index]));
    put(STATUS, 0);
    put(STATUS, ACKNOWLEDGE);
    return 0;
}
