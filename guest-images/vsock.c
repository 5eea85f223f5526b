/*
 * Carries stdin and stdout to a socket of the host, or from one: a netcat for AF_VSOCK.
 *
 *     vsock connect PORT      to a port of the host
 *     vsock listen PORT       for one connection of the host, once it is there
 *     vsock connect-message PORT, vsock listen-message PORT
 *                             the same with sequenced packets, one for each read of stdin
 *
 * Ends with 0 when both directions have ended, with 1 and the error's number when a call fails.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

enum { BUFFER_BYTES = 65536 };

static void fail(const char *call)
{
    fprintf(stderr, "vsock: %s: %s (errno %d)\n", call, strerror(errno), errno);
    exit(1);
}

static void copy(int from, int to)
{
    static char buffer[BUFFER_BYTES];
    ssize_t count;
    while ((count = read(from, buffer, sizeof buffer)) > 0)
        for (char *rest = buffer; count > 0;) {
            ssize_t written = write(to, rest, (size_t)count);
            if (written < 0)
                fail("write");
            rest += written;
            count -= written;
        }
    if (count < 0)
        fail("read");
}

int main(int count, char **arguments)
{
    if (count != 3) {
        fprintf(stderr, "usage: vsock {connect|listen}[-message] PORT\n");
        return 2;
    }
    int kind = strstr(arguments[1], "-message") ? SOCK_SEQPACKET : SOCK_STREAM;
    struct sockaddr_vm address = {
        .svm_family = AF_VSOCK,
        .svm_port = (unsigned)strtoul(arguments[2], 0, 10),
    };
    int fd = socket(AF_VSOCK, kind, 0);
    if (fd < 0)
        fail("socket");
    if (arguments[1][0] == 'c') {
        address.svm_cid = VMADDR_CID_HOST;
        if (connect(fd, (void *)&address, sizeof address))
            fail("connect");
    } else {
        address.svm_cid = VMADDR_CID_ANY;
        if (bind(fd, (void *)&address, sizeof address) || listen(fd, 1))
            fail("listen");
        fprintf(stderr, "listening\n");
        if ((fd = accept(fd, 0, 0)) < 0)
            fail("accept");
    }
    pid_t child = fork();
    if (child < 0)
        fail("fork");
    if (child == 0) {
        copy(fd, 1);
        return 0;
    }
    copy(0, fd);
    shutdown(fd, SHUT_WR);
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
