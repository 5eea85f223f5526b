/* Reads that have to wait for the disk: io_uring(7) lets it see all of them at once. */

#include "native.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct uring {
    int fd;
    uint32_t *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
    struct io_uring_sqe *entries;
    struct io_uring_cqe *completions;
    void *rings;
    size_t rings_bytes;
};

static void close_uring(struct uring *uring)
{
    if (uring->rings != MAP_FAILED)
        munmap(uring->rings, uring->rings_bytes);
    if (uring->entries != MAP_FAILED)
        munmap(uring->entries, PENDING * sizeof *uring->entries);
    close(uring->fd);
    free(uring);
}

/* Returns NULL where the kernel does not have it, or does not let us. */
static struct uring *open_uring(void)
{
    struct io_uring_params about = {0};
    int fd = syscall(__NR_io_uring_setup, PENDING, &about);
    if (fd < 0)
        return NULL;
    struct uring *uring = calloc(1, sizeof *uring);
    if (!uring) {
        close(fd);
        return NULL;
    }
    size_t sq_bytes = about.sq_off.array + about.sq_entries * sizeof(uint32_t);
    size_t cq_bytes = about.cq_off.cqes + about.cq_entries * sizeof(struct io_uring_cqe);
    uring->fd = fd;
    uring->rings_bytes = sq_bytes > cq_bytes ? sq_bytes : cq_bytes;
    uring->rings = mmap(NULL, uring->rings_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                        IORING_OFF_SQ_RING);
    uring->entries = mmap(NULL, PENDING * sizeof *uring->entries, PROT_READ | PROT_WRITE,
                          MAP_SHARED, fd, IORING_OFF_SQES);
    if (uring->rings == MAP_FAILED || uring->entries == MAP_FAILED ||
        !(about.features & IORING_FEAT_SINGLE_MMAP)) {
        close_uring(uring);
        return NULL;
    }
    uint8_t *rings = uring->rings;
    uring->sq_tail = (uint32_t *)(rings + about.sq_off.tail);
    uring->sq_mask = (uint32_t *)(rings + about.sq_off.ring_mask);
    uring->sq_array = (uint32_t *)(rings + about.sq_off.array);
    uring->cq_head = (uint32_t *)(rings + about.cq_off.head);
    uring->cq_tail = (uint32_t *)(rings + about.cq_off.tail);
    uring->cq_mask = (uint32_t *)(rings + about.cq_off.ring_mask);
    uring->completions = (struct io_uring_cqe *)(rings + about.cq_off.cqes);
    return uring;
}

/* Let go of what the host holds for a queue. */
void close_queue(struct queue *queue)
{
    if (queue->uring)
        close_uring(queue->uring);
    queue->uring = NULL;
}

static void finish(struct queue *queue, struct pending *pending, struct served *served, int good)
{
    STORE(*pending->status, good ? OK : IOERR);
    served->failed += !good;
    add_used(queue, pending->done, good ? pending->data_in + 1 : 0, served);
}

/* Put the reads into the submission ring. */
static void prepare(struct uring *uring, struct pending *pending, uint32_t count)
{
    uint32_t tail = *uring->sq_tail;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t place = (tail + i) & *uring->sq_mask;
        struct transfer *transfer = &pending[i].transfer;
        uring->entries[place] = (struct io_uring_sqe){
            .opcode = IORING_OP_READV,
            .fd = transfer->fd,
            .addr = (uintptr_t)transfer->vector,
            .len = transfer->parts,
            .off = transfer->offset,
            .user_data = i,
        };
        uring->sq_array[place] = place;
    }
    STORE_LAST(*uring->sq_tail, tail + count);
}

/* Give back each read that has completed; returns how many there were. */
static uint32_t reap(struct queue *queue, struct pending *pending, struct served *served)
{
    struct uring *uring = queue->uring;
    uint32_t head = *uring->cq_head, first = head;
    for (; head != LOAD_FIRST(*uring->cq_tail); STORE_LAST(*uring->cq_head, ++head)) {
        struct io_uring_cqe completion = uring->completions[head & *uring->cq_mask];
        struct pending *one = &pending[completion.user_data];
        if (completion.res > 0)
            skip(&one->transfer, completion.res);
        finish(queue, one, served, move(&one->transfer, 0));
    }
    return head - first;
}

/*
 * Have the kernel do the reads together; returns how many it took, in order, all of which are done.
 * One that refuses some is asked no more: what it did not take is still in its ring.
 */
static uint32_t serve_together(struct queue *queue, struct pending *pending, uint32_t count,
                               struct served *served)
{
    uint32_t taken = 0, done = 0;
    int refused = 0;
    prepare(queue->uring, pending, count);
    while (done < taken || (taken < count && !refused)) {
        int accepted = syscall(__NR_io_uring_enter, queue->uring->fd, refused ? 0 : count - taken,
                               1, IORING_ENTER_GETEVENTS, NULL, 0);
        if (accepted > 0)
            taken += accepted;
        else if ((accepted == 0 || errno != EINTR) && taken < count)
            refused = 1;
        done += reap(queue, pending, served);
    }
    if (taken < count) {
        close_uring(queue->uring);
        queue->uring = NULL;
    }
    return taken;
}

/* Do the reads that would have made the others wait, and give them back. */
void serve_reads(struct queue *queue, struct pending *pending, uint32_t count,
                 struct served *served)
{
    if (!queue->uring)
        queue->uring = open_uring();
    uint32_t taken = queue->uring ? serve_together(queue, pending, count, served) : 0;
    for (uint32_t i = taken; i < count; i++)
        finish(queue, &pending[i], served, move(&pending[i].transfer, 0));
}
