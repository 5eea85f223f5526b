/*
 * Writes files without end, and tells in the end whether what the disk has is what was written.
 *
 *     load start FOLDER    writes in the background, file after file, each synchronized
 *     load wait            returns when one more file has been written
 *     load end FOLDER DISK stops the writing, reads all files back from the disk and unmounts it;
 *                          prints the CRC-32 of the whole disk
 *
 * A write is a whole file of 128 KiB, every second one past the page cache; twelve names take turns.
 * Each word of a file tells of which write and which place it is, so that an older version, another
 * file's block and a torn write show. How far the writer has come stands in /tmp/load.
 */

#include "freestanding.h"

enum { FILES = 12, FILE_BYTES = 128 << 10, WORDS = FILE_BYTES / 8, PATH_BYTES = 256 };

/* What the writer and those who ask it share: numbers, one after the other in a file. */
enum field { WRITTEN, STOP, ENDED, FAILED };
static long fields;

static unsigned long content[WORDS] __attribute__((aligned(4096)));
static char path[PATH_BYTES];

static _Noreturn void end(int status)
{
    CALL(exit_group, status, 0, 0, 0, 0);
    __builtin_unreachable();
}

static long get(enum field field)
{
    long value = 0;
    CALL(pread64, fields, &value, sizeof value, field * sizeof value, 0);
    return value;
}

static void put(enum field field, long value)
{
    CALL(pwrite64, fields, &value, sizeof value, field * sizeof value, 0);
}

/* Waking up executes some ten thousand instructions, of which an emulated guest has a million a
 * second. */
static void rest(void)
{
    long tenth[] = {0, 100000000};
    CALL(nanosleep, tenth, 0, 0, 0, 0);
}

/* Opens the file of a write: FOLDER/a and so on. */
static long open_file(const char *folder, long write, long flags)
{
    long count = length(folder);
    if (count > PATH_BYTES - 3)
        return -1;
    for (long at = 0; at < count; at++)
        path[at] = folder[at];
    path[count] = '/';
    path[count + 1] = 'a' + write % FILES;
    path[count + 2] = 0;
    return CALL(open, path, flags, 0600, 0, 0);
}

static unsigned long word(long write, long at)
{
    return write * 0x9e3779b97f4a7c15 + at;
}

static long write_file(const char *folder, long write)
{
    long fd = open_file(folder, write, O_WRONLY | O_CREAT | (write % 2 ? O_DIRECT : 0));
    if (fd < 0)
        return fd;
    for (long at = 0; at < WORDS; at++)
        content[at] = word(write, at);
    long count = CALL(write, fd, content, FILE_BYTES, 0, 0);
    if (count != FILE_BYTES)
        return count < 0 ? count : -1;
    long error = CALL(fsync, fd, 0, 0, 0, 0);
    CALL(close, fd, 0, 0, 0, 0);
    return error;
}

/* Nobody waits for the output of this process, or ends it with those of its group. */
static void leave_caller(void)
{
    CALL(setsid, 0, 0, 0, 0, 0);
    for (long standard = 0; standard < 3; standard++)
        CALL(close, standard, 0, 0, 0, 0);
}

static void write_until_told(const char *folder)
{
    for (long write = 1; !get(STOP) && !get(FAILED); write++)
        put(write_file(folder, write) ? FAILED : WRITTEN, write);
    put(ENDED, 1);
}

/* Whether the file of a write has, on the disk, what was written. */
static int is_intact(const char *folder, long write)
{
    long fd = open_file(folder, write, O_RDONLY | O_DIRECT);
    int intact = fd >= 0 && CALL(read, fd, content, FILE_BYTES, 0, 0) == FILE_BYTES;
    for (long at = 0; intact && at < WORDS; at++)
        intact = content[at] == word(write, at);
    CALL(close, fd, 0, 0, 0, 0);
    return intact;
}

static void complain(const char *what, const char *where)
{
    say("load: ");
    say(what);
    say(where);
    say("\n");
    end(1);
}

static void stop(const char *folder)
{
    put(STOP, 1);
    while (!get(ENDED))
        rest();
    long last = get(WRITTEN), first = last < FILES ? 1 : last - FILES + 1;
    if (last == 0 || get(FAILED))
        complain("cannot write to ", folder);
    for (long write = first; write <= last; write++)
        if (!is_intact(folder, write))
            complain("not what was written: ", path);
    if (CALL(umount2, folder, 0, 0, 0, 0) != 0)
        complain("cannot unmount ", folder);
}

/* Prints the CRC-32 of the disk. The page cache would cost ten times as much. */
static void sum(const char *disk)
{
    unsigned table[16], crc = ~0u;
    char digits[] = "00000000\n";
    long count, fd = CALL(open, disk, O_RDONLY | O_DIRECT, 0, 0, 0);
    for (unsigned at = 0; at < 16; at++) {
        table[at] = at;
        for (int bit = 0; bit < 4; bit++)
            table[at] = table[at] >> 1 ^ (table[at] & 1 ? 0xedb88320 : 0);
    }
    while ((count = CALL(read, fd, content, FILE_BYTES, 0, 0)) > 0)
        for (long at = 0; at < count; at++) {
            crc ^= ((unsigned char *)content)[at];
            crc = table[crc & 15] ^ crc >> 4;
            crc = table[crc & 15] ^ crc >> 4;
        }
    if (count < 0)
        complain("cannot read ", disk);
    crc = ~crc;
    for (int at = 7; at >= 0; at--, crc >>= 4)
        digits[at] = "0123456789abcdef"[crc & 15];
    say(digits);
}

int main(int count, char **arguments, char **environment)
{
    (void)environment;
    char verb = count > 1 ? arguments[1][0] : 0;
    fields = CALL(open, "/tmp/load", O_RDWR | O_CREAT, 0600, 0, 0);
    if (verb == 's' && count == 3) {
        if (CALL(fork, 0, 0, 0, 0, 0) == 0) {
            leave_caller();
            write_until_told(arguments[2]);
        }
    } else if (verb == 'w' && count == 2) {
        for (long before = get(WRITTEN); get(WRITTEN) == before && !get(ENDED);)
            rest();
    } else if (verb == 'e' && count == 4) {
        stop(arguments[2]);
        sum(arguments[3]);
    } else {
        say("usage: load start FOLDER | load wait | load end FOLDER DISK\n");
        end(2);
    }
    end(0);
}
