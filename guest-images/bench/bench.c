/*
 * A kernel that measures virtio devices, the same on every VMM that boots by PVH.
 *
 * Each word "bench=NAME,KEY=NUMBER,..." of its command line is a workload, and makes one line on
 * COM1. NAME is blk-read, blk-write, blk-stable (writes without VIRTIO_BLK_F_FLUSH: each is on the
 * disk when it is answered), entropy, net-send or net-receive; the keys are
 *
 *     bytes       of data in a request; a data descriptor holds at most 128 KiB of it
 *     depth       requests under way; as soon as some are back, as many new ones are published
 *     count       requests that are measured, after a warm-up of an eighth of that
 *     random      1 for places all over the disk, 0 (the default) for one after another
 *     event_idx   1 to negotiate VIRTIO_F_EVENT_IDX
 *
 * Devices are found by the "virtio_mmio.device=SIZE@BASE:IRQ" words, or on PCI with a word "bus=pci":
 * through the ports, or with "ecam=ADDRESS" in memory. It runs in user mode, which is native also
 * where KVM emulates kernels, and polls. Needs 64 MiB of RAM.
 *
 * A frame is of an experimental EtherType, or, from 2 KiB on, of TCP and left to be cut by whoever is
 * behind the device (on virtio-mmio only). Whoever sends frames for net-receive makes each as long as
 * `bytes`, to 02:00:00:00:00:01.
 *
 * The disk's 8-byte words must be numbered from 0. Reads go to its first half, and are compared with
 * that: all words in the warm-up, the first and last of each measured request. Writes go to the
 * second half; all of them are read back and compared. Ends with status 0 when all was well, and
 * with 1 after a line that says what was not.
 */

#include "console.h"
#include "driver.h"
#include "start.h"

enum { ENTROPY = 4, BLOCK = 2, TYPE_IN = 0, TYPE_OUT = 1, FLUSH = 1 << 9 };
enum { NETWORK = 1, RECEIVE_QUEUE = 0, TRANSMIT_QUEUE = 1, NET_HEADER = 12, UNCUT_BYTES = 2048 };
enum { NET_CSUM = 1, NET_GUEST_CSUM = 2, NET_GUEST_TSO4 = 1 << 7, NET_HOST_TSO4 = 1 << 11 };
enum { SECTOR_BYTES = 512, SECTOR_WORDS = 64, PAGE_WORDS = 512 };
enum { SEGMENT_BYTES = 128 << 10, MEMORY = 32 << 20, MEMORY_BYTES = 32 << 20, SLOTS = 128 };

/* In cycles, about a minute: the host's deadline is to come first, unless it has none. */
#define PATIENCE (1ull << 37)

struct workload {
    char name[16];
    uint64_t bytes, depth, count, random, event_idx;
};

/* What is in flight: a chain of descriptors that stays, over a buffer of its own. */
struct slot {
    struct { uint32_t type, reserved; uint64_t sector; } header;
    volatile uint8_t status;
    uint64_t *buffer;
};

static struct workload work;
static struct slot slots[SLOTS];
static uint64_t chain_length, places, first_sector, seed, moved;
static int is_block, is_written, is_stable, is_net;

/* What follows the prefix, 0 for a word that does not begin so. */
static const char *skip(const char *word, const char *prefix)
{
    while (*prefix)
        if (*word++ != *prefix++)
            return 0;
    return word;
}

/* Data */

static uint64_t expected(uint64_t sector, uint64_t index)
{
    uint64_t number = sector * SECTOR_WORDS + index;
    if (!is_written)
        return number;
    return index % PAGE_WORDS ? seed + index : seed ^ number;
}

static void check_word(const struct slot *slot, uint64_t index)
{
    uint64_t sector = slot->header.sector, wanted = expected(sector, index);
    if (slot->buffer[index] != wanted)
        fail("word # of the request at sector # is #, and should be #", index, sector,
             slot->buffer[index], wanted);
}

static void check_ends(const struct slot *slot, uint64_t length)
{
    if (slot->header.type == TYPE_IN) {
        check_word(slot, 0);
        check_word(slot, length / 8 - 1);
    }
}

static void check_all(const struct slot *slot, uint64_t length)
{
    if (slot->header.type == TYPE_IN)
        for (uint64_t index = 0; index < length / 8; index++)
            check_word(slot, index);
}

/* Of what a buffer is to hold for a write, only the words that depend on the place are missing. */
static void prepare_buffer(struct slot *slot)
{
    for (uint64_t index = 0; index < work.bytes / 8; index++)
        slot->buffer[index] = seed + index;
}

static void stamp(struct slot *slot)
{
    for (uint64_t index = 0; index < work.bytes / 8; index += PAGE_WORDS)
        slot->buffer[index] = expected(slot->header.sector, index);
}

/* Requests */

static void describe(uint64_t index, volatile void *data, uint32_t length, uint16_t flags)
{
    volatile struct descriptor *one = &queue.table[index];
    one->address = (uint64_t)data;
    one->length = length;
    one->flags = flags;
    one->next = index + 1;
}

static void copy(uint8_t *to, const char *from, uint64_t bytes)
{
    while (bytes--)
        *to++ = *from++;
}

/* struct virtio_net_hdr, and the headers of a frame: one that is whole, or a large one of TCP. */
static void write_frame(uint8_t *packet)
{
    uint64_t bytes = work.bytes - 14;
    for (uint64_t index = 0; index < NET_HEADER + work.bytes; index++)
        packet[index] = 0;
    if (work.bytes >= UNCUT_BYTES)
        copy(packet, "\1\1\66\0\250\5\42\0\20\0\0\0", NET_HEADER);
    copy(packet + NET_HEADER, "\2\0\0\0\0\2\2\0\0\0\0\1\210\265", 14);
    if (work.bytes < UNCUT_BYTES)
        return;
    copy(packet + NET_HEADER + 12, "\10\0\105\0\0\0\0\1\0\0\100\6\0\0\12\0\0\2\12\0\0\3", 22);
    packet[NET_HEADER + 16] = bytes >> 8;
    packet[NET_HEADER + 17] = bytes;
    copy(packet + NET_HEADER + 34, "\0\1\0\2\0\0\0\3\0\0\0\0\120\20\2\0", 16);
}

static void build_packet(uint64_t number, uint16_t direction)
{
    uint64_t length = NET_HEADER + work.bytes;
    slots[number].buffer = (uint64_t *)(MEMORY + number * ((length + 63) & ~63ull));
    describe(number, slots[number].buffer, length, direction);
    if (!direction)
        write_frame((uint8_t *)slots[number].buffer);
}

static void build_chain(uint64_t number, uint32_t type)
{
    struct slot *slot = &slots[number];
    uint64_t index = number * chain_length, done = 0;
    uint16_t direction = type == TYPE_OUT ? 0 : WRITE;
    slot->header.type = type;
    if (is_net) {
        build_packet(number, direction);
        return;
    }
    slot->buffer = (uint64_t *)(MEMORY + number * work.bytes);
    if (is_block)
        describe(index++, &slot->header, sizeof slot->header, NEXT);
    for (uint64_t part; done < work.bytes; done += part) {
        part = work.bytes - done < SEGMENT_BYTES ? work.bytes - done : SEGMENT_BYTES;
        describe(index++, (uint8_t *)slot->buffer + done, part, direction | (is_block ? NEXT : 0));
    }
    if (is_block)
        describe(index, &slot->status, 1, WRITE);
    prepare_buffer(slot);
}

static void build_chains(uint32_t type)
{
    for (uint64_t number = 0; number < work.depth; number++)
        build_chain(number, type);
}

/* The same numbers always lead to the same places. */
static uint64_t place(uint64_t number)
{
    if (work.random) {
        number = (number ^ number >> 30) * 0xbf58476d1ce4e5b9;
        number = (number ^ number >> 27) * 0x94d049bb133111eb;
        number ^= number >> 31;
    }
    return number % places;
}

static void begin(uint64_t index, uint64_t number)
{
    struct slot *slot = &slots[index];
    if (is_block) {
        slot->header.sector = first_sector + place(number) * (work.bytes / SECTOR_BYTES);
        slot->status = 0xff;
        if (slot->header.type == TYPE_OUT)
            stamp(slot);
    }
    offer(index * chain_length);
}

/* What a device of either type must have done; returns the bytes of data that moved. */
static uint64_t check_answer(const struct slot *slot, uint32_t length)
{
    if (is_net && length != (slot->header.type == TYPE_IN ? NET_HEADER + work.bytes : 0))
        fail("the device used # bytes of a packet of #", (uint64_t)length, work.bytes);
    if (is_net)
        return work.bytes;
    if (!is_block) {
        if (!length || length > work.bytes || (length >= 8 && slot->buffer[0] == seed))
            fail("the device used # bytes of an entropy buffer of #", (uint64_t)length, work.bytes);
        return length;
    }
    uint64_t written = slot->header.type == TYPE_IN ? work.bytes + 1 : 1;
    if (slot->status || length != written)
        fail("the request at sector # has status #, used length # and not #", slot->header.sector,
             (uint64_t)slot->status, (uint64_t)length, written);
    return work.bytes;
}

static uint64_t wait_for_used(uint32_t *length)
{
    uint64_t since = __builtin_ia32_rdtsc();
    uint32_t head;
    while (!collect(&head, length)) {
        __builtin_ia32_pause();
        if (__builtin_ia32_rdtsc() - since > PATIENCE)
            fail("no answer after # of # requests, device status #", (uint64_t)collected,
                 (uint64_t)published, (uint64_t)get(STATUS));
    }
    if (head % chain_length || head / chain_length >= work.depth)
        fail("the device used a chain that there is not: #", (uint64_t)head);
    return head / chain_length;
}

/* Runs the requests of the numbers from first up to end; returns the cycles that it took. */
static uint64_t run(uint64_t first, uint64_t end, void (*check)(const struct slot *, uint64_t))
{
    uint64_t next = first, left = end - first, began = __builtin_ia32_rdtsc();
    for (uint64_t index = 0; index < work.depth && next < end; index++)
        begin(index, next++);
    publish();
    while (left) {
        uint32_t length, more = published - collected;
        do {
            uint64_t index = wait_for_used(&length);
            uint64_t bytes = check_answer(&slots[index], length);
            moved += bytes;
            if (is_block)
                check(&slots[index], bytes);
            left--;
            if (next < end)
                begin(index, next++);
        } while (--more && queue.used.index != collected);
        publish();
    }
    return __builtin_ia32_rdtsc() - began;
}

/* Workloads */

static void check_limits(void)
{
    uint64_t data = (work.bytes + SEGMENT_BYTES - 1) / SEGMENT_BYTES;
    chain_length = is_block ? data + 2 : data;
    if (!work.bytes || (!is_net && work.bytes % SECTOR_BYTES) || !work.depth || work.depth > SLOTS || !work.count
        || work.depth * (work.bytes + 64 * is_net) > MEMORY_BYTES || work.depth * chain_length > queue_size)
        fail("# requests of # bytes, # at once, do not fit into # descriptors", work.count,
             work.bytes, work.depth, (uint64_t)queue_size);
}

static void choose_half(int second)
{
    uint64_t half = (get(CONFIG) | (uint64_t)get(CONFIG + 4) << 32) / 2;
    places = half * SECTOR_BYTES / work.bytes;
    first_sector = second ? half : 0;
    if (!places)
        fail("a disk of # sectors is too small for requests of # bytes", 2 * half, work.bytes);
}

static void find_device(uint32_t id);

static int is_named(const char *name)
{
    const char *rest = skip(work.name, name);
    return rest && !*rest;
}

static void measure(void)
{
    is_stable = is_named("blk-stable");
    is_written = is_stable || is_named("blk-write");
    is_block = is_written || is_named("blk-read");
    int sends = is_named("net-send");
    is_net = sends || is_named("net-receive");
    if (!is_block && !is_net && !is_named("entropy"))
        fail("no such workload; there are blk-read, blk-write, blk-stable, entropy, net-send and "
             "net-receive");
    find_device(is_block ? BLOCK : is_net ? NETWORK : ENTROPY);
    queue_number = sends ? TRANSMIT_QUEUE : RECEIVE_QUEUE;
    uint64_t offloads = sends ? NET_CSUM | NET_HOST_TSO4 : NET_GUEST_CSUM | NET_GUEST_TSO4;
    negotiate(VERSION_1 | (work.event_idx ? EVENT_IDX : 0) |
                  (is_net && work.bytes >= UNCUT_BYTES ? offloads : 0),
              is_block && !is_stable ? FLUSH : 0);
    go_live();
    check_limits();
    if (is_block)
        choose_half(is_written);
    seed = __builtin_ia32_rdtsc();
    build_chains(is_written || sends ? TYPE_OUT : TYPE_IN);

    uint64_t warm_up = work.depth + work.count / 8, end = warm_up + work.count;
    run(0, warm_up, check_all);
    moved = kicks = 0;
    uint64_t cycles = run(warm_up, end, check_ends), measured = moved, notified = kicks;
    if (is_written) {
        build_chains(TYPE_IN);
        run(0, end, check_all);
    }
    put(STATUS, 0);
    say("bench: ");
    say(work.name);
    report(" bytes=# depth=# count=# random=# event_idx=# cycles=# moved=# kicks=#\n", work.bytes,
           work.depth, work.count, work.random, work.event_idx, cycles, measured, notified);
}

/* The command line */

static const char *command_line;

/* What follows the next word that begins so, from *at on, which goes behind it; 0 without one. */
static const char *next_word(const char **at, const char *prefix)
{
    while (**at) {
        while (**at == ' ')
            ++*at;
        const char *found = skip(*at, prefix);
        while (**at && **at != ' ')
            ++*at;
        if (found)
            return found;
    }
    return 0;
}

static uint64_t number(const char **text)
{
    const char *digits = skip(*text, "0x");
    uint64_t value = 0, base = digits ? 16 : 10;
    for (digits = digits ? digits : *text;; digits++) {
        uint64_t digit = *digits - (*digits <= '9' ? '0' : 'a' - 10);
        if (digit >= base)
            break;
        value = value * base + digit;
    }
    *text = digits;
    return value;
}

static void find_device(uint32_t id)
{
    const char *at = command_line, *item;
    common = 0;
    if (next_word(&at, "bus=pci")) {
        at = command_line;
        item = next_word(&at, "ecam=");
        ecam = item ? number(&item) : 0;
        if (!find_on_pci(id))
            fail("there is no virtio device of type # on PCI", (uint64_t)id);
        return;
    }
    at = command_line;
    while ((item = next_word(&at, "virtio_mmio.device="))) {
        while (*item != '@')
            if (*item++ <= ' ')
                fail("a virtio_mmio.device item has no address");
        item++;
        window = (volatile uint8_t *)number(&item);
        if (get(MAGIC_VALUE) == VIRT && get(VERSION) == 2 && get(DEVICE_ID) == id)
            return;
    }
    fail("there is no virtio-mmio device of type #", (uint64_t)id);
}

static const struct { const char *name; uint64_t *value; } keys[] = {
    {"bytes=", &work.bytes}, {"depth=", &work.depth}, {"count=", &work.count},
    {"random=", &work.random}, {"event_idx=", &work.event_idx},
};

static const char *read_key(const char *text)
{
    for (uint64_t index = 0; index < sizeof keys / sizeof *keys; index++) {
        const char *value = skip(text, keys[index].name);
        if (value) {
            *keys[index].value = number(&value);
            return value;
        }
    }
    fail("a workload has a key that there is not");
}

static void read_workload(const char *text)
{
    uint64_t length = 0;
    work = (struct workload){.bytes = 4096, .depth = 1, .count = 1000};
    for (; *text > ' ' && *text != ','; text++)
        if (length < sizeof work.name - 1)
            work.name[length++] = *text;
    while (*text == ',')
        text = read_key(text + 1);
    if (*text > ' ')
        fail("a workload goes on behind a number");
}

__attribute__((noreturn)) void main(const struct start_info *info)
{
    if (info->magic != START_INFO_MAGIC)
        fail("this is no PVH start");
    command_line = (const char *)info->command_line;
    const char *at = command_line, *text = next_word(&at, "bench=");
    if (!text)
        fail("the command line has no bench= word");
    for (; text; text = next_word(&at, "bench=")) {
        read_workload(text);
        measure();
    }
    say("bench: done\n");
    end(0);
}
