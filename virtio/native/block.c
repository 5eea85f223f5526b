/*
 * The block device: requests that read and write a file. VIRTIO 1.4 "Block Device".
 *
 * A read that would have to wait for the disk is left to Python, which has a thread wait for it:
 * here the device's lock is held, and a reset, a snapshot and the end of the machine want that.
 * So is a write to a part of a page that would have to be read first.
 */

#include "native.h"

#include <errno.h>

enum { SECTOR = 512, PAGE = 4096, IN = 0, OUT = 1 };

/* The data of a request: what is still to be moved between guest memory and file. */
struct transfer {
    int fd, writes, flags;
    struct iovec *vector;
    uint32_t parts;
    uint64_t offset;
};

/* Go on to where the data continues after so many bytes. */
static void skip(struct transfer *transfer, size_t moved)
{
    transfer->offset += moved;
    for (; transfer->parts && moved >= transfer->vector->iov_len; transfer->parts--)
        moved -= transfer->vector++->iov_len;
    if (moved) {
        transfer->vector->iov_base = (uint8_t *)transfer->vector->iov_base + moved;
        transfer->vector->iov_len -= moved;
    }
}

/* Move all of it; returns 0 where that cannot be done, or not without waiting. */
static int move(struct transfer *transfer)
{
    while (transfer->parts) {
        ssize_t moved = transfer->writes
            ? pwritev(transfer->fd, transfer->vector, transfer->parts, transfer->offset)
            : preadv2(transfer->fd, transfer->vector, transfer->parts, transfer->offset,
                      transfer->flags);
        if (moved < 0 && errno == EINTR)
            continue;
        if (moved <= 0) /* zero: the file ends before the disk does */
            return 0;
        skip(transfer, moved);
    }
    return 1;
}

/* Whether the file's byte at a place can be read without waiting. */
static int is_cached(int fd, uint64_t offset)
{
    uint8_t byte;
    struct iovec one = {&byte, 1};
    return preadv2(fd, &one, 1, offset, RWF_NOWAIT) == 1;
}

/* Whether the host can write a range without reading the rest of its first or last page. */
static int has_edges(int fd, uint64_t offset, uint64_t end)
{
    return (offset % PAGE == 0 || is_cached(fd, offset)) &&
           (end % PAGE == 0 || is_cached(fd, end - 1));
}

/* VIRTIO 1.4 "Block Device Operation": struct virtio_blk_req. */
int64_t serve_block(const struct device *device, struct chain *chain)
{
    struct { uint32_t type, reserved; uint64_t sector; } header;
    if (!chain->writable || !copy_front(chain, &header, sizeof header) || header.type > OUT)
        return TO_PYTHON;
    int writes = header.type == OUT;
    struct iovec *vector = writes ? chain->vector : chain->vector + chain->reads;
    uint32_t parts = writes ? chain->reads : chain->writes;
    uint64_t data_in = chain->writable - 1, length = writes ? chain->readable - 16 : data_in;
    struct iovec *last = &chain->vector[chain->reads + chain->writes - 1];
    uint8_t *status = (uint8_t *)last->iov_base + last->iov_len - 1;
    if (!length || length % SECTOR || length > STEP_BYTES || header.sector > device->sectors ||
        length / SECTOR > device->sectors - header.sector || (writes && !device->writable))
        return TO_PYTHON;
    struct transfer transfer = {
        .fd = device->fd,
        .writes = writes,
        .flags = device->may_wait ? RWF_NOWAIT : 0,
        .vector = vector,
        .parts = parts,
        .offset = header.sector * SECTOR,
    };
    if (writes) {
        if (device->may_wait && !has_edges(transfer.fd, transfer.offset, transfer.offset + length))
            return TO_PYTHON;
        transfer.offset -= 16; /* where the header would be */
        skip(&transfer, 16);
    } else if (--last->iov_len == 0)
        transfer.parts--;
    if (!move(&transfer))
        return TO_PYTHON; /* which begins anew, and tells what is wrong if something is */
    STORE(*status, OK);
    /* The status, being the last byte, counts only when the data before it is full (SPL-34). */
    return writes ? !data_in : (int64_t)data_in + 1;
}
