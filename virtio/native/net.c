/*
 * The network device: packets between its rings and a descriptor of the host, which is a tap or a
 * stream. VIRTIO 1.4 "Network Device", "Device Operation"; Linux networking/tuntap.rst.
 *
 * Twin of virtio/net: packet.py (what a packet may be), transmit.py and receive.py. It has the
 * packets that need no work: those to be dropped, finished in software, or looked up in a table of
 * addresses are left to Python, as are all that come behind them until Python has none.
 */

#include "native.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum {
    HEADER_BYTES = 12, ETHERNET_BYTES = 14, LENGTH_BYTES = 4,
    MAX_FRAME = 65535 + ETHERNET_BYTES + 8, MIN_PACKET = HEADER_BYTES + ETHERNET_BYTES,
    MAX_PACKET = HEADER_BYTES + MAX_FRAME, MAX_SEGMENTS = 1024, MERGED = 64,
};
enum { NEEDS_CSUM = 1, DATA_VALID = 2, TCPV4 = 1, TCPV6 = 4, UDP_L4 = 5, OF_ECN = 0x80 };
enum { CSUM = 0x01, TSO4 = 0x02, TSO6 = 0x04, ECN = 0x08, USO = 0x60 }; /* as linux/if_tun.h has */

_Static_assert(MAX_PACKET <= WIRE_BYTES / 3, "a packet has room in what a tap's wire is given");

/* struct virtio_net_hdr */
struct header {
    uint8_t flags, kind;
    uint16_t headers, segment, start, offset, buffers;
};
_Static_assert(sizeof(struct header) == HEADER_BYTES, "a layout of the specification");

/* A frame in parts, the first `skipped` bytes of which are not its own. */
struct frame {
    const struct iovec *parts;
    uint32_t count, skipped, bytes;
};

/* Headers */

static int byte_at(const struct frame *frame, uint32_t at)
{
    size_t place = (size_t)at + frame->skipped;
    for (uint32_t i = 0; i < frame->count; i++) {
        if (place < frame->parts[i].iov_len)
            return LOAD(((const uint8_t *)frame->parts[i].iov_base)[place]);
        place -= frame->parts[i].iov_len;
    }
    return 0;
}

/* Whether frames of a kind may be left uncut; for UDP only if they may for both versions of IP. */
static int may_be_uncut(uint8_t kind, uint32_t allowed, int both)
{
    uint32_t udp = both ? (allowed & USO) == USO : allowed & USO;
    if (kind & OF_ECN && !(allowed & ECN))
        return 0;
    switch (kind & ~OF_ECN) {
    case TCPV4: return !!(allowed & TSO4);
    case TCPV6: return !!(allowed & TSO6);
    case UDP_L4: return !!udp;
    }
    return 0;
}

/* Return the length of all headers of a frame to be cut, or all of it if they make no sense. */
static uint32_t headers_bytes(struct header told, const struct frame *frame)
{
    if ((told.kind & ~OF_ECN) == UDP_L4)
        return told.offset == 6 ? told.start + 8u : frame->bytes;
    if (told.offset != 16 || told.start + 20u > frame->bytes)
        return frame->bytes;
    uint32_t own = (byte_at(frame, told.start + 12) >> 4) * 4;
    return own >= 20 ? told.start + own : frame->bytes;
}

/* Make of a header one that others can trust (NET-11); returns 0 for a packet to be dropped. */
static int sanitize(struct header *header, const struct frame *frame, uint32_t allowed)
{
    struct header told = *header;
    *header = (struct header){.buffers = 1};
    if (!(told.flags & NEEDS_CSUM) || !(allowed & CSUM))
        return !told.kind;
    if (told.start < ETHERNET_BYTES || told.start + told.offset + 2u > frame->bytes)
        return 0;
    header->flags = NEEDS_CSUM;
    header->start = told.start;
    header->offset = told.offset;
    if (!told.kind)
        return 1;
    uint32_t headers = headers_bytes(told, frame);
    if (!may_be_uncut(told.kind, allowed, 0) || headers >= frame->bytes || headers > UINT16_MAX ||
        frame->bytes - headers > (uint32_t)told.segment * MAX_SEGMENTS)
        return 0;
    header->kind = told.kind;
    header->headers = headers;
    header->segment = told.segment;
    return 1;
}

/* Whether a packet is as unfinished as somebody takes it, or less. */
static int is_taken(const struct header *header, uint32_t takes)
{
    if (!(header->flags & NEEDS_CSUM))
        return 1;
    return takes & CSUM && (!header->kind || may_be_uncut(header->kind, takes, 1));
}

/* From the guest */

static int write_to_tap(const struct wire *wire, struct header *header, const struct frame *frame)
{
    struct iovec parts[MAX_DESCRIPTORS];
    uint32_t count = 0, skipped = frame->skipped;
    parts[count++] = (struct iovec){header, HEADER_BYTES};
    for (uint32_t i = 0; i < frame->count; i++) {
        struct iovec part = frame->parts[i];
        if (part.iov_len <= skipped) {
            skipped -= part.iov_len;
            continue;
        }
        if (count == MAX_DESCRIPTORS)
            return 0;
        parts[count++] =
            (struct iovec){(uint8_t *)part.iov_base + skipped, part.iov_len - skipped};
        skipped = 0;
    }
    ssize_t written;
    do
        written = writev(wire->fd, parts, count);
    while (written < 0 && errno == EINTR);
    return written >= 0;
}

/* Write what waits for the stream, as far as it takes it; Python has the rest written. */
void flush_wire(struct wire *wire)
{
    while (wire->sending && !wire->stalled) {
        ssize_t written = write(wire->fd, wire->out, wire->sending);
        if (written < 0 && errno == EINTR)
            continue;
        if (written > 0) {
            wire->sending -= written;
            memmove(wire->out, wire->out + written, wire->sending);
        } else
            wire->stalled = 1;
    }
}

/* Put a frame behind its length, to be written with others. */
static int write_to_stream(struct wire *wire, const struct frame *frame)
{
    if (wire->sending + LENGTH_BYTES + frame->bytes > WIRE_BYTES)
        flush_wire(wire);
    if (wire->stalled)
        return 0;
    uint32_t length = __builtin_bswap32(frame->bytes), skipped = frame->skipped;
    uint8_t *to = wire->out + wire->sending;
    memcpy(to, &length, LENGTH_BYTES);
    to += LENGTH_BYTES;
    for (uint32_t i = 0; i < frame->count; i++) {
        struct iovec part = frame->parts[i];
        uint32_t from = part.iov_len < skipped ? part.iov_len : skipped;
        memcpy(to, (uint8_t *)part.iov_base + from, part.iov_len - from);
        to += part.iov_len - from;
        skipped -= from;
    }
    wire->sending += LENGTH_BYTES + frame->bytes;
    return 1;
}

/* VIRTIO 1.4 "Packet Transmission". */
int64_t serve_transmit(const struct device *device, struct chain *chain)
{
    struct wire *wire = device->wire;
    struct header header;
    if (wire->stalled || chain->readable < MIN_PACKET || chain->readable > MAX_PACKET ||
        !copy_front(chain, &header, HEADER_BYTES))
        return TO_PYTHON;
    struct frame frame = {
        chain->vector, chain->reads, HEADER_BYTES, (uint32_t)chain->readable - HEADER_BYTES};
    if (!sanitize(&header, &frame, wire->allowed) || !is_taken(&header, wire->network_takes))
        return TO_PYTHON;
    if (!(wire->framed ? write_to_stream(wire, &frame) : write_to_tap(wire, &header, &frame)))
        return TO_PYTHON;
    wire->sent++;
    return 0;
}

/* To the guest */

/* A packet that came: what it holds of the wire's buffer, and the frame and header in there. */
struct packet {
    struct header header;
    struct frame frame;
    struct iovec part;
    uint32_t held;
};

static void set_frame(struct packet *packet, uint8_t *bytes, uint32_t length)
{
    packet->part = (struct iovec){bytes, length};
    packet->frame = (struct frame){&packet->part, 1, 0, length};
}

/* Read behind what is held; returns 1 when something came, 0 when nothing is there, or -1. */
static int read_more(struct wire *wire, uint32_t most)
{
    ssize_t got;
    do
        got = read(wire->fd, wire->in + wire->end, most);
    while (got < 0 && errno == EINTR);
    if (got < 0 && errno == EAGAIN)
        wire->ready = 0;
    if (got <= 0)
        return got < 0 && errno == EAGAIN ? 0 : -1;
    wire->end += got;
    return 1;
}

static int next_of_tap(struct wire *wire, struct packet *packet)
{
    static const struct header plain = {.buffers = 1};
    int got = read_more(wire, MAX_PACKET);
    if (got <= 0)
        return got;
    packet->held = wire->end;
    if (wire->end < MIN_PACKET)
        return -1;
    memcpy(&packet->header, wire->in, HEADER_BYTES);
    packet->header.buffers = plain.buffers; /* which the kernel leaves as it is */
    memcpy(wire->in, &packet->header, HEADER_BYTES);
    set_frame(packet, wire->in + HEADER_BYTES, wire->end - HEADER_BYTES);
    return 1;
}

static int next_of_stream(struct wire *wire, struct packet *packet)
{
    for (int tries = 0; tries < 2; tries++) {
        uint32_t held = wire->end - wire->begin, length = 0;
        if (held >= LENGTH_BYTES) {
            memcpy(&length, wire->in + wire->begin, LENGTH_BYTES);
            length = __builtin_bswap32(length);
        }
        if (length > MAX_FRAME)
            return -1;
        if (held >= LENGTH_BYTES && held - LENGTH_BYTES >= length) {
            packet->header = (struct header){.buffers = 1};
            packet->held = LENGTH_BYTES + length;
            set_frame(packet, wire->in + wire->begin + LENGTH_BYTES, length);
            return length < ETHERNET_BYTES ? -1 : 1;
        }
        memmove(wire->in, wire->in + wire->begin, held);
        wire->begin = 0;
        wire->end = held;
        int got = tries ? 0 : read_more(wire, WIRE_BYTES - held);
        if (got < 0)
            return got;
    }
    wire->ready = 0; /* and the loop tells when more is there */
    return 0;
}

/* Whether the driver wants a frame: 1, 0, or -1 when Python has to look it up. */
static int passes(const struct wire *wire, const struct frame *frame)
{
    static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    const uint8_t *bytes = frame->parts->iov_base;
    if (wire->by_vlan && bytes[12] == 0x81 && bytes[13] == 0)
        return -1;
    if (wire->everything)
        return 1;
    if (!memcmp(bytes, broadcast, sizeof broadcast))
        return wire->broadcast;
    int wish = bytes[0] & 1 ? wire->multicast : wire->unicast;
    if (wish >= OWN && !(bytes[0] & 1) && !memcmp(bytes, wire->mac, sizeof wire->mac))
        return 1;
    return wish == LISTED ? -1 : wish == EVERY;
}

/* Whether a packet is for the guest, and as it takes it: 1, 0 for one dropped, -1 for Python. */
static int admit(struct wire *wire, struct packet *packet)
{
    static const struct header plain = {.buffers = 1};
    int wanted = passes(wire, &packet->frame);
    if (wanted <= 0) {
        wire->filtered += wanted == 0;
        return wanted;
    }
    struct header flagless = packet->header;
    flagless.flags = 0;
    int is_trusted = !memcmp(&flagless, &plain, HEADER_BYTES) &&
                     (packet->header.flags == 0 || packet->header.flags == DATA_VALID);
    if (!is_trusted && !sanitize(&packet->header, &packet->frame, CSUM | TSO4 | TSO6 | ECN | USO))
        return -1;
    if (packet->header.flags == DATA_VALID && !(wire->guest_takes & CSUM))
        packet->header.flags = 0;
    if (!is_taken(&packet->header, wire->guest_takes))
        return -1;
    int is_large = !packet->header.kind && wire->mtu && packet->frame.bytes > wire->mtu;
    return is_large ? -1 : 1;
}

/* Buffers for one packet. */
struct room {
    struct iovec parts[MAX_DESCRIPTORS];
    struct done chains[MERGED];
    uint32_t lengths[MERGED], parts_used, count;
};

static int add_room(struct room *room, const struct chain *chain, uint32_t *left)
{
    uint32_t length = chain->writable < *left ? chain->writable : *left, wanted = length;
    if (room->count == MERGED)
        return 0;
    for (uint32_t i = chain->reads; wanted; i++) {
        struct iovec part = chain->vector[i];
        part.iov_len = part.iov_len < wanted ? part.iov_len : wanted;
        if (room->parts_used == MAX_DESCRIPTORS)
            return 0;
        room->parts[room->parts_used++] = part;
        wanted -= part.iov_len;
    }
    room->chains[room->count] = (struct done){chain->id, chain->slots, chain->readable};
    room->lengths[room->count++] = length;
    *left -= length;
    return 1;
}

/*
 * Take buffers for a packet of so many bytes: all that it needs, or none (NET-06). Returns 1; 0 for
 * a packet that does not fit into the first one; or -1 where Python has to decide.
 */
static int take_room(struct queue *queue, const struct wire *wire, struct room *room, uint32_t left)
{
    struct chain chain;
    uint32_t first = queue->next_avail;
    int found = 1;
    room->count = room->parts_used = 0;
    while (left && found == 1) {
        found = look(queue, &chain, NULL) > 0 ? 1 : -1;
        if (found < 0)
            break;
        if (!room->count && chain.writable < HEADER_BYTES)
            found = -1;
        else if (!wire->mergeable && chain.writable < left)
            found = 0;
        else if (!add_room(room, &chain, &left))
            found = -1;
        else {
            if (queue->records)
                record_taken(queue, &chain, nanoseconds());
            queue->next_avail = advanced(queue, queue->next_avail, chain.slots);
        }
    }
    if (found != 1) {
        queue->next_avail = first;
        if (queue->records)
            queue->records->pending = 0;
    }
    return found;
}

static void fill_part(struct iovec **part, const void *from, size_t bytes)
{
    while (bytes) {
        size_t length = (*part)->iov_len < bytes ? (*part)->iov_len : bytes;
        memcpy((*part)->iov_base, from, length);
        (*part)->iov_base = (uint8_t *)(*part)->iov_base + length;
        (*part)->iov_len -= length;
        *part += !(*part)->iov_len;
        from = (const uint8_t *)from + length;
        bytes -= length;
    }
}

/* Put a packet into its buffers, and give them back, the driver seeing all of them at once. */
static void put_packet(struct queue *queue, struct packet *packet, struct room *room,
                       struct served *served)
{
    struct iovec *part = room->parts;
    packet->header.buffers = room->count; /* NET-05 */
    fill_part(&part, &packet->header, HEADER_BYTES);
    fill_part(&part, packet->part.iov_base, packet->part.iov_len);
    uint32_t position = queue->next_used;
    for (uint32_t i = 0; i < room->count; i++) {
        struct done *done = &room->chains[i];
        position = add_unseen(queue, position, done->id, done->slots, room->lengths[i]);
        served->entries += done->slots;
        served->bytes_read += done->readable;
        served->bytes_written += room->lengths[i];
        if (queue->records)
            record_given(queue, done->id, room->lengths[i], nanoseconds());
    }
    if (queue->records)
        publish_records(queue);
    show_used(queue, position, room->lengths[0]);
    served->chains += room->count;
}

/* Forget a packet that the guest has, or does not get. */
static void let_go(struct wire *wire, const struct packet *packet)
{
    wire->begin += packet->held;
    if (wire->begin == wire->end)
        wire->begin = wire->end = 0;
}

/*
 * Fill buffers with the packets that are there, up to `limit` packets or STEP_BYTES, while there is
 * a buffer. VIRTIO 1.4 "Processing of Incoming Packets". What is held after LEFT is Python's.
 */
int serve_receive(struct queue *queue, struct wire *wire, uint32_t limit, struct served *served)
{
    struct packet packet;
    struct room room;
    uint64_t bytes = 0;
    if (wire->blocked || (!wire->framed && wire->end))
        return LEFT;
    if (!wire->ready)
        return IDLE;
    for (uint32_t count = 0; count < limit && bytes < STEP_BYTES; count++) {
        if (!has_available(queue))
            return IDLE;
        int found = wire->framed ? next_of_stream(wire, &packet) : next_of_tap(wire, &packet);
        if (found <= 0)
            return found ? LEFT : IDLE;
        uint32_t size = HEADER_BYTES + packet.frame.bytes;
        int taken = admit(wire, &packet);
        if (taken > 0) {
            taken = take_room(queue, wire, &room, size);
            wire->unfit += taken == 0;
        }
        if (taken < 0)
            return LEFT;
        if (taken) {
            put_packet(queue, &packet, &room, served);
            wire->received++;
        }
        let_go(wire, &packet);
        bytes += size;
    }
    return MORE;
}
