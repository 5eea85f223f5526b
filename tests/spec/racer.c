/* The driver of a virtqueue in a process of its own, on memory that it shares with the device.
 *
 * It makes requests available as fast as it can, polls for their return, and counts every value in
 * the ring that no correct device ever stores. It honours the device's notification suppression and
 * uses its own, so that a lost wake-up ends the run. races.py starts it and has a twin of it.
 *
 * Request number i has 1 + i % 7 readable bytes, the first of the number's 8, and 16 writable ones;
 * the device is to echo the readable bytes. VIRTIO 1.4 "Split Virtqueues", "Packed Virtqueues".
 */

#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NEXT = 1, WRITE = 2, SLOT_BYTES = 128, ROOM = 16, POISON = 0xA5, PATIENCE_MS = 5000 };

struct split_desc { uint64_t addr; uint32_t len; uint16_t flags, next; };
struct split_avail { uint16_t flags, idx, ring[]; };
struct split_used { uint16_t flags, idx; struct { uint32_t id, len; } ring[]; };
struct packed_desc { uint64_t addr; uint32_t len; uint16_t id, flags; };
struct packed_event { uint16_t off_wrap, flags; };

static uint8_t *ram;
static unsigned size, slots, window, event_idx, in_flight;
static uint64_t data_area, descriptor_area, driver_area, device_area;
static int kick_fd, call_fd;
static uint64_t number_of[1 << 15]; /* the request in a slot, plus 1; 0 for none */
static uint64_t torn, wrong, kicks, sleeps;

static uint16_t load(uint16_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static void store(uint16_t *p, uint16_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static void fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* What a form of the queue does in its own way. take() gives the slot of a request that came back
 * and the used length, or -1 for none. watch_suppression() looks whether the device's notification
 * suppression holds what a device may write there. */
struct form {
	void (*publish)(unsigned slot, uint64_t readable, uint32_t length, uint64_t writable);
	int (*should_kick)(void);
	int (*take)(uint32_t *length);
	void (*want_calls)(void);
	void (*refuse_calls)(void);
	void (*watch_suppression)(void);
};

static int need_event(uint16_t event, uint16_t new, uint16_t old)
{
	return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

/* Split. The request in slot s has descriptors 2s and 2s + 1. */

static uint16_t next_avail, last_used, kicked, event_before;

#define TABLE ((struct split_desc *)(ram + descriptor_area))
#define AVAIL ((struct split_avail *)(ram + driver_area))
#define USED ((struct split_used *)(ram + device_area))

static void split_publish(unsigned slot, uint64_t readable, uint32_t length, uint64_t writable)
{
	unsigned head = 2 * slot;

	TABLE[head] = (struct split_desc){readable, length, NEXT, head + 1};
	TABLE[head + 1] = (struct split_desc){writable, ROOM, WRITE, 0};
	AVAIL->ring[next_avail % size] = head;
	store(&AVAIL->idx, ++next_avail);
}

static int split_should_kick(void)
{
	uint16_t old = kicked;

	kicked = next_avail;
	if (!event_idx)
		return !(load(&USED->flags) & 1);
	return need_event(load((uint16_t *)&USED->ring[size]), next_avail, old);
}

static int split_take(uint32_t *length)
{
	uint16_t ahead = load(&USED->idx) - last_used;
	uint32_t id;

	if (ahead > in_flight) {
		torn++;
		return -1;
	}
	if (!ahead)
		return -1;
	id = USED->ring[last_used % size].id;
	*length = USED->ring[last_used % size].len;
	last_used++;
	return id % 2 || id / 2 >= slots ? (int)slots : (int)(id / 2);
}

static void split_want_calls(void)
{
	if (event_idx)
		store(&AVAIL->ring[size], last_used);
	else
		store(&AVAIL->flags, 0);
}

static void split_refuse_calls(void)
{
	if (!event_idx)
		store(&AVAIL->flags, 1);
}

/* avail_event only moves forward, and never past what is available. */
static void split_watch_suppression(void)
{
	uint16_t event;

	if (load(&USED->flags) > !event_idx)
		torn++;
	if (!event_idx)
		return;
	event = load((uint16_t *)&USED->ring[size]);
	if ((uint16_t)(event - event_before) >= 0x8000 || (uint16_t)(next_avail - event) >= 0x8000)
		torn++;
	event_before = event;
}

/* Packed. Every request takes two entries of the ring; its buffer id is the slot. */

static unsigned avail_entry, used_entry, avail_wrap = 1, used_wrap = 1, since_kick;

#define RING ((struct packed_desc *)(ram + descriptor_area))
#define DRIVER ((struct packed_event *)(ram + driver_area))
#define DEVICE ((struct packed_event *)(ram + device_area))

static void advance(unsigned *entry, unsigned *wrap)
{
	if (++*entry == size) {
		*entry = 0;
		*wrap ^= 1;
	}
}

static uint16_t avail_bits(unsigned wrap) { return wrap ? 0x0080 : 0x8000; }

static void packed_publish(unsigned slot, uint64_t readable, uint32_t length, uint64_t writable)
{
	struct packed_desc *first = &RING[avail_entry], *second;
	uint16_t first_flags = NEXT | avail_bits(avail_wrap);

	advance(&avail_entry, &avail_wrap);
	second = &RING[avail_entry];
	*second = (struct packed_desc){writable, ROOM, slot, WRITE | avail_bits(avail_wrap)};
	advance(&avail_entry, &avail_wrap);
	first->addr = readable;
	first->len = length;
	first->id = slot;
	since_kick += 2;
	store(&first->flags, first_flags);
}

static int packed_should_kick(void)
{
	uint32_t word = __atomic_load_n((uint32_t *)DEVICE, __ATOMIC_ACQUIRE);
	uint16_t mode = word >> 16, event = word & 0x7fff, added = since_kick;

	since_kick = 0;
	if (mode != 2)
		return mode == 0;
	if ((word >> 15 & 1) != avail_wrap)
		event -= size;
	return need_event(event, avail_entry, avail_entry - added);
}

static int packed_take(uint32_t *length)
{
	struct packed_desc *entry = &RING[used_entry];
	uint16_t flags;
	unsigned id;

	if (!in_flight)
		return -1;
	flags = load(&entry->flags);
	if (flags == (NEXT | avail_bits(used_wrap)))
		return -1;
	if (flags != (WRITE | (used_wrap ? 0x8080 : 0))) {
		torn++;
		return -1;
	}
	id = entry->id;
	*length = entry->len;
	advance(&used_entry, &used_wrap);
	advance(&used_entry, &used_wrap);
	return id >= slots ? (int)slots : (int)id;
}

static void packed_want_calls(void)
{
	if (event_idx)
		store(&DRIVER->off_wrap, used_entry | used_wrap << 15);
	store(&DRIVER->flags, event_idx ? 2 : 0);
}

static void packed_refuse_calls(void) { store(&DRIVER->flags, 1); }

/* In mode 2 the event is an entry that the device has not taken yet. */
static void packed_watch_suppression(void)
{
	uint32_t word = __atomic_load_n((uint32_t *)DEVICE, __ATOMIC_ACQUIRE);
	unsigned mode = word >> 16, entry = word & 0x7fff, lap = 2 * size;
	unsigned event = entry + (word >> 15 & 1 ? 0 : size);
	unsigned used = used_entry + (used_wrap ? 0 : size);
	unsigned avail = avail_entry + (avail_wrap ? 0 : size);

	if (mode > 1 + event_idx || entry >= size)
		torn++;
	else if (mode == 2 && (event + lap - used) % lap > (avail + lap - used) % lap)
		torn++;
}

static const struct form SPLIT = {split_publish, split_should_kick, split_take, split_want_calls,
				  split_refuse_calls, split_watch_suppression};
static const struct form PACKED = {packed_publish, packed_should_kick, packed_take,
				   packed_want_calls, packed_refuse_calls,
				   packed_watch_suppression};

/* Both */

static uint64_t random_state = 88172645463325252u;

static unsigned below(unsigned limit)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return limit ? random_state % limit : 0;
}

/* In any free slot, so that nothing in the ring is by chance as it was a lap before. */
static void send(const struct form *form, uint64_t number)
{
	unsigned slot = below(slots);
	uint64_t at;

	while (number_of[slot])
		slot = (slot + 1) % slots;
	at = data_area + slot * SLOT_BYTES;
	memcpy(ram + at, &number, 8);
	memset(ram + at + 64, POISON, ROOM);
	number_of[slot] = number + 1;
	in_flight++;
	form->publish(slot, at, 1 + number % 7, at + 64);
	fence();
	if (form->should_kick()) {
		uint64_t one = 1;

		kicks++;
		if (write(kick_fd, &one, 8) != 8)
			exit(2);
	}
}

/* Look at what came back: the bytes up to the used length, and the poison after it. */
static void check(unsigned slot, uint32_t length)
{
	uint8_t expected[ROOM];
	uint64_t number;

	in_flight--;
	if (slot == slots || !number_of[slot]) {
		wrong++;
		return;
	}
	number = number_of[slot] - 1;
	number_of[slot] = 0;
	memset(expected, POISON, ROOM);
	memcpy(expected, &number, 1 + number % 7);
	if (length != 1 + number % 7 || memcmp(ram + data_area + slot * SLOT_BYTES + 64, expected, ROOM))
		wrong++;
}

/* Sleep until the device calls; -1 when it does not. */
static int await_call(void)
{
	struct pollfd waiting = {call_fd, POLLIN, 0};
	uint64_t ignored;

	sleeps++;
	if (poll(&waiting, 1, PATIENCE_MS) != 1)
		return -1;
	return read(call_fd, &ignored, 8) == 8 ? 0 : -1;
}

/* Wait for one request to come back: poll for a while, then sleep. */
static int receive(const struct form *form, unsigned spins)
{
	uint32_t length;
	int slot;

	for (unsigned i = below(spins); i; i--) {
		form->watch_suppression();
		if ((slot = form->take(&length)) >= 0)
			goto found;
	}
	form->want_calls();
	fence();
	while ((slot = form->take(&length)) < 0)
		if (await_call())
			return -1;
	form->refuse_calls();
found:
	check(slot, length);
	return 0;
}

int main(int argc, char **argv)
{
	const struct form *form = !strcmp(argv[1], "split") ? &SPLIT : &PACKED;
	uint64_t number[13], sent = 0, done = 0, count;
	struct stat memory;
	unsigned spins;

	if (argc != 14)
		return 2;
	for (int i = 2; i < 14; i++)
		number[i - 2] = strtoull(argv[i], NULL, 0);
	kick_fd = number[1], call_fd = number[2];
	size = number[3], slots = size / 2, descriptor_area = number[4], driver_area = number[5];
	device_area = number[6], data_area = number[7];
	event_idx = number[8], window = number[9], spins = number[10], count = number[11];
	fstat(number[0], &memory);
	ram = mmap(NULL, memory.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, number[0], 0);
	if (ram == MAP_FAILED)
		return 2;
	form->refuse_calls();
	while (done < count) {
		for (unsigned n = 1 + below(window); n && in_flight < window && sent < count; n--)
			send(form, sent++);
		if (receive(form, spins))
			break;
		done++;
	}
	printf("%llu %llu %llu %llu %llu\n", (unsigned long long)done, (unsigned long long)torn,
	       (unsigned long long)wrong, (unsigned long long)kicks, (unsigned long long)sleeps);
	return 0;
}
