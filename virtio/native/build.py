"""Builds ``virtio.native._native`` when the package is installed: see ``setup.py``.

The files are compiled one by one; only what Python calls is declared here, and the shared
structures once more, which the compiler compares with those of ``native.h``. Paths are relative to
the project, as setuptools wants them.
"""

from cffi import FFI

FOLDER = "virtio/native"
SOURCES = ("ring", "notify", "batch", "serve", "block", "entropy", "net", "records")

ffi = FFI()
ffi.cdef(
    """
    struct generator;
    struct records;
    struct region { uint64_t start, end; uint8_t *host; };
    struct queue {
        uint8_t *descriptors, *driver, *device;
        uint32_t size, regions;
        uint8_t packed, event_idx, indirect, in_order;
        uint32_t next_avail, next_used;
        struct region region[4];
        uint64_t window_start, window_end;
        struct records *records;
    };
    struct plain { uint64_t address; uint32_t length; uint16_t flags, head, id; };
    struct taken {
        uint64_t readable, writable;
        uint32_t head, id, slots, descriptors, reads, kind;
        uint64_t data, status;
        uint32_t data_bytes;
        uint8_t header[64];
    };
    struct exchange {
        uint32_t next_avail, next_used;
        uint32_t count, stop;
        uint64_t given_at, bytes_read, bytes_written;
        uint32_t given, entries, limit, header_bytes;
        uint64_t wait_ns;
        uint32_t lengths[256];
        struct taken taken[256];
        struct plain copies[2048];
    };
    struct served {
        uint64_t chains, bytes_read, bytes_written;
        uint32_t entries;
    };
    struct wire {
        int fd;
        uint8_t framed, stalled, blocked, ready, mergeable;
        uint8_t everything, broadcast, unicast, multicast, by_vlan, mac[6];
        uint32_t allowed, network_takes, guest_takes, mtu;
        uint32_t sending, begin, end;
        uint8_t *out, *in;
        uint64_t sent, received, filtered, unfit;
    };
    struct device {
        uint32_t kind;
        int fd;
        uint8_t writable;
        uint8_t may_wait;
        uint64_t sectors;
        const struct generator *generator;
        struct wire *wire;
    };

    static const int CHAINS, MAX_HEADER_BYTES, DATA_OUT, DATA_IN;
    static const int BLOCK, ENTROPY, TRANSMIT, RECEIVE, MAX_REGIONS, RANDOM_BYTES;
    static const int WIRE_BYTES, NONE, EVERY, OWN, LISTED;
    static const int TAKEN, GIVEN;
    static const int IDLE, LEFT, TELL, MORE, WRONG, IMPOSSIBLE, REFUSED;

    struct generator *open_generator(int in_process);
    void close_generator(struct generator *generator);
    ssize_t random_bytes(const struct generator *generator, void *to, size_t bytes);
    int has_available(const struct queue *queue);
    int wait_available(const struct queue *queue, uint64_t wait_ns);
    int32_t take_plain(struct queue *queue, struct plain *plain, uint32_t limit);
    void decline_notification(struct queue *queue);
    int request_notification(struct queue *queue);
    int exchange(struct queue *queue, struct exchange *exchange);
    void get_rooms(const struct plain *plain, uint32_t count, uint32_t *rooms);
    int publish_plain(struct queue *queue, const struct plain *plain, const uint32_t *lengths,
                      uint32_t count, struct served *served);
    struct records *open_records(uint32_t units);
    void close_records(struct records *records);
    uint32_t read_records(struct records *records, uint8_t *to, uint32_t bytes);
    uint64_t take_lost(struct records *records);
    int serve(struct queue *queue, const struct device *device, uint32_t limit,
              uint64_t wait_ns, struct served *served);
    """
)
ffi.set_source(
    "virtio.native._native",
    '#include "native.h"',
    sources=[f"{FOLDER}/{name}.c" for name in SOURCES],
    include_dirs=[FOLDER],
    depends=[f"{FOLDER}/native.h"],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-fno-strict-aliasing", "-fvisibility=hidden"],
    libraries=["dl"],
)
