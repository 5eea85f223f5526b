/* Random bytes, and the entropy device that gives them. VIRTIO 1.4 "Entropy Device". */

#include "native.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>

/*
 * Where random bytes come from: the system call, or since Linux 6.11 what the kernel gives each
 * process to execute for it, which takes half the time. Linux drivers/char/random.c "vgetrandom".
 */
struct generator {
    ssize_t (*function)(void *buffer, size_t bytes, unsigned flags, void *state, size_t size);
    void *state; /* for one thread at a time */
    size_t size;
};

struct generator *open_generator(int in_process)
{
    struct { uint32_t size, protection, flags, reserved[13]; } wanted;
    struct generator *generator = calloc(1, sizeof *generator);
    void *vdso = in_process ? dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD) : NULL;
    if (generator && vdso)
        *(void **)&generator->function = dlsym(vdso, "__vdso_getrandom");
    if (generator && generator->function) {
        ssize_t error = generator->function(NULL, 0, 0, &wanted, ~(size_t)0);
        generator->state = error ? MAP_FAILED
                                 : mmap(NULL, wanted.size, wanted.protection, wanted.flags, -1, 0);
        generator->size = wanted.size;
        if (generator->state == MAP_FAILED)
            generator->function = NULL;
    }
    if (vdso)
        dlclose(vdso);
    return generator;
}

void close_generator(struct generator *generator)
{
    if (generator && generator->function)
        munmap(generator->state, generator->size);
    free(generator);
}

/* Returns how many bytes were given, or minus the errno. */
ssize_t random_bytes(const struct generator *generator, void *to, size_t bytes)
{
    ssize_t given;
    do {
        if (generator && generator->function)
            given = generator->function(to, bytes, 0, generator->state, generator->size);
        else if ((given = getrandom(to, bytes, 0)) < 0)
            given = -errno;
    } while (given == -EINTR);
    return given;
}

/* VIRTIO 1.4 "Entropy Device": as many random bytes as there is room for, 64 KiB at most. */
int64_t serve_entropy(const struct device *device, struct chain *chain)
{
    size_t done = 0, left = chain->writable < RANDOM_BYTES ? chain->writable : RANDOM_BYTES;
    for (uint32_t i = chain->reads; left > 0; i++) {
        size_t length = chain->vector[i].iov_len < left ? chain->vector[i].iov_len : left;
        ssize_t given = random_bytes(device->generator, chain->vector[i].iov_base, length);
        if (given < 0)
            return TO_PYTHON;
        done += given;
        if ((size_t)given < length)
            break;
        left -= given;
    }
    return done || !chain->writable ? (int64_t)done : TO_PYTHON;
}
