/*
 * Maps a file, shared: tells what is there, and puts text in its place.
 *
 *     mapped FILE TEXT        tells as many bytes as the text has, then writes the text there
 *
 * Ends with 1 and the error's number when a call fails.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void fail(const char *call)
{
    fprintf(stderr, "mapped: %s: %s (errno %d)\n", call, strerror(errno), errno);
    exit(1);
}

int main(int count, char **arguments)
{
    if (count != 3 || !*arguments[2]) {
        fprintf(stderr, "usage: mapped FILE TEXT\n");
        return 2;
    }
    size_t length = strlen(arguments[2]);
    int fd = open(arguments[1], O_RDWR);
    if (fd < 0)
        fail("open");
    char *bytes = mmap(0, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED)
        fail("mmap");
    printf("%.*s\n", (int)length, bytes);
    memcpy(bytes, arguments[2], length);
    if (msync(bytes, length, MS_SYNC) || munmap(bytes, length) || close(fd))
        fail("msync");
    return 0;
}
