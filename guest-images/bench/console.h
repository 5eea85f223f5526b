/* What the program says on COM1, and how it ends: by the debug-exit port, with a status. */

#include <stdarg.h>
#include <stdint.h>

enum { SERIAL_PORT = 0x3f8, EXIT_PORT = 0xf4 };

static void write_port(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static void say(const char *text)
{
    while (*text)
        write_port(SERIAL_PORT, *text++);
}

static void say_number(uint64_t value)
{
    char digits[24], *first = digits + sizeof digits;
    *--first = 0;
    do
        *--first = '0' + value % 10;
    while (value /= 10);
    say(first);
}

/* Says the text, with a number in place of each '#'. */
static void report(const char *text, ...)
{
    va_list numbers;
    va_start(numbers, text);
    for (; *text; text++) {
        if (*text == '#')
            say_number(va_arg(numbers, uint64_t));
        else
            write_port(SERIAL_PORT, *text);
    }
    va_end(numbers);
}

__attribute__((noreturn)) static void end(uint8_t status)
{
    write_port(EXIT_PORT, status);
    for (;;)
        __builtin_ia32_pause();
}

#define fail(...) (report("bench: error: " __VA_ARGS__), say("\n"), end(1))
