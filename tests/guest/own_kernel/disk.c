/*
 * Reads the first sector of a virtio disk and says the text in it. The command line tells how to
 * find the disk, by "ports", "ecam" or "mmio", and how to end: by "off", or with a status.
 */

#include "machine.h"

struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

static struct {
    struct descriptor descriptors[8];
    struct { uint16_t flags, index, ring[8], event; } available;
    struct { uint16_t flags; volatile uint16_t index; uint32_t ring[16]; } used;
} queue __attribute__((aligned(4096)));
static struct { uint32_t type, reserved; uint64_t sector; } header;
static char data[513];
static volatile uint8_t status = 0xff;

static inline void put32(uint8_t *place, uint32_t value)
{
    *(volatile uint32_t *)place = value;
}

static inline void put8(uint8_t *place, uint8_t value)
{
    *(volatile uint8_t *)place = value;
}

static inline void put16(uint8_t *place, uint16_t value)
{
    *(volatile uint16_t *)place = value;
}

static inline uint32_t low(const volatile void *place)
{
    return (uint32_t)(uintptr_t)place;
}

/* Asks for sector 0: header, data, status. */
static void fill_queue(void)
{
    queue.descriptors[0] = (struct descriptor){low(&header), 16, 1, 1};
    queue.descriptors[1] = (struct descriptor){low(data), 512, 1 | 2, 2};
    queue.descriptors[2] = (struct descriptor){low(&status), 1, 2, 0};
    __asm__ volatile("" : : : "memory");
    queue.available.index = 1;
}

/* VIRTIO 1.4 "MMIO Device Register Layout". */
static int read_by_mmio(uint8_t *window)
{
    if (get32(window) != 0x74726976 || get32(window + 8) != 2)
        return 0;
    put32(window + 0x70, 0);
    put32(window + 0x70, 1 | 2);
    put32(window + 0x24, 1);
    put32(window + 0x20, 1);                 /* VIRTIO_F_VERSION_1 */
    put32(window + 0x70, 1 | 2 | 8);
    put32(window + 0x30, 0);
    put32(window + 0x38, 8);
    put32(window + 0x80, low(queue.descriptors));
    put32(window + 0x90, low(&queue.available));
    put32(window + 0xa0, low(&queue.used));
    put32(window + 0x44, 1);
    put32(window + 0x70, 1 | 2 | 8 | 4);
    fill_queue();
    put32(window + 0x50, 0);
    return 1;
}

/* The windows of virtio-mmio devices are in the DSDT: a device's id, then its Memory32Fixed. */
static int find_by_acpi(void)
{
    uint8_t *dsdt = pointer_at(acpi_table("FACP") + 140), *last = dsdt + get32(dsdt + 4);
    int is_virtio = 0;
    for (uint8_t *at = dsdt; at < last - 12; at++) {
        if (same(at, "LNRO0005", 8))
            is_virtio = 1;
        if (is_virtio && same(at, "\x86\x09\x00", 3)) {
            is_virtio = 0;
            if (read_by_mmio((uint8_t *)(uintptr_t)get32(at + 4)))
                return 1;
        }
    }
    return 0;
}

static uint8_t *ecam;

static uint32_t configuration(uint32_t slot, uint32_t offset)
{
    if (ecam)
        return get32(ecam + (slot << 15) + offset);
    out32(0xcf8, 1u << 31 | slot << 11 | offset);
    return in32(0xcfc);
}

static void configure(uint32_t slot, uint32_t offset, uint32_t value)
{
    if (ecam) {
        put32(ecam + (slot << 15) + offset, value);
    } else {
        out32(0xcf8, 1u << 31 | slot << 11 | offset);
        out32(0xcfc, value);
    }
}

/* VIRTIO 1.4 "Virtio Over PCI Bus": where a structure is, by its capability. */
static uint8_t *structure(uint32_t slot, uint32_t kind, uint32_t *multiplier)
{
    uint32_t at = configuration(slot, 0x34) & 0xfc;
    for (; at; at = configuration(slot, at) >> 8 & 0xfc) {
        if ((configuration(slot, at) & 0xff) != 9 || configuration(slot, at) >> 24 != kind)
            continue;
        uint32_t bar = configuration(slot, 0x10 + 4 * (configuration(slot, at + 4) & 0xff));
        *multiplier = configuration(slot, at + 16);
        return (uint8_t *)(uintptr_t)((bar & ~0xfu) + configuration(slot, at + 8));
    }
    end(2);
    return 0;
}

static int find_by_pci(void)
{
    uint32_t slot = 0, multiplier = 0;
    while (configuration(slot, 0) != (0x1042 << 16 | 0x1af4))
        if (++slot == 32)
            return 0;
    configure(slot, 4, 1 << 1 | 1 << 2);     /* memory space, bus master */
    uint8_t *common = structure(slot, 1, &multiplier);
    uint8_t *notify = structure(slot, 2, &multiplier);
    put8(common + 20, 0);
    put8(common + 20, 1 | 2);
    put32(common + 8, 1);
    put32(common + 12, 1);                   /* VIRTIO_F_VERSION_1 */
    put8(common + 20, 1 | 2 | 8);
    put16(common + 22, 0);
    put16(common + 24, 8);
    put32(common + 32, low(queue.descriptors));
    put32(common + 40, low(&queue.available));
    put32(common + 48, low(&queue.used));
    put16(common + 28, 1);
    put8(common + 20, 1 | 2 | 8 | 4);
    fill_queue();
    put16(notify + *(volatile uint16_t *)(common + 30) * multiplier, 0);
    return 1;
}

void kernel(const char *command_line)
{
    int found = 0;
    if (same(command_line, "ports ", 6)) {
        found = find_by_pci();
    } else if (same(command_line, "ecam  ", 6)) {
        ecam = pointer_at(acpi_table("MCFG") + 44);
        found = find_by_pci();
    } else if (same(command_line, "mmio  ", 6)) {
        found = find_by_acpi();
    }
    if (!found) {
        say("no disk\n");
        end(3);
    }
    while (!queue.used.index)
        ;
    say("the disk says: ");
    say(status ? "nothing\n" : data);
    if (same(command_line + 6, "off", 3))
        power_off();
    end(42);
}
