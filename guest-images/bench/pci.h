/*
 * The same device on PCI: found through the configuration ports or ECAM, its BAR put into place, and
 * its fields reached by the numbers that virtio-mmio's registers have.
 *
 * VIRTIO 1.4 "Virtio Over PCI Bus"; PCI Local Bus 3.0 "Configuration Mechanism #1"; PCI Express Base
 * "Enhanced Configuration Access Mechanism".
 */

#include <stdint.h>

enum { CONFIG_ADDRESS = 0xcf8, CONFIG_DATA = 0xcfc, VIRTIO_VENDOR = 0x1af4, FIRST_ID = 0x1040 };
enum { COMMAND = 0x04, BAR0 = 0x10, CAPABILITIES = 0x34, VENDOR_CAPABILITY = 9 };
enum { MEMORY_SPACE = 2, BUS_MASTER = 4, BARS = 0xd0000000, BAR_SHARE = 1 << 20, SLOT_COUNT = 32 };
enum { COMMON_STRUCTURE = 1, NOTIFY_STRUCTURE = 2, DEVICE_STRUCTURE = 4 };

/* Where the structures are; the first is 0 while there is no device on PCI. */
static volatile uint8_t *common, *notification, *device_fields;
static uint64_t ecam; /* where configuration space is in memory, 0 for the ports */

static void write_port32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static uint32_t read_port32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static volatile uint32_t *configuration_in_memory(uint32_t slot, uint32_t offset)
{
    return (volatile uint32_t *)(ecam + (slot << 15) + (offset & 0xffc));
}

static uint32_t configuration(uint32_t slot, uint32_t offset)
{
    if (ecam)
        return *configuration_in_memory(slot, offset) >> 8 * (offset & 3);
    write_port32(CONFIG_ADDRESS, 1u << 31 | slot << 11 | (offset & 0xfc));
    return read_port32(CONFIG_DATA) >> 8 * (offset & 3);
}

static void configure(uint32_t slot, uint32_t offset, uint32_t value)
{
    if (ecam) {
        *configuration_in_memory(slot, offset) = value;
        return;
    }
    write_port32(CONFIG_ADDRESS, 1u << 31 | slot << 11 | offset);
    write_port32(CONFIG_DATA, value);
}

/* The number of the BAR that the common structure is in; the others are there, too. */
static uint32_t bar_of_structures(uint32_t slot)
{
    uint32_t at = configuration(slot, CAPABILITIES) & 0xff;
    while (at && ((configuration(slot, at) & 0xff) != VENDOR_CAPABILITY ||
                  configuration(slot, at) >> 24 != COMMON_STRUCTURE))
        at = configuration(slot, at + 1) & 0xff;
    if (!at)
        fail("the function in slot # lacks a structure", (uint64_t)slot);
    return configuration(slot, at + 4) & 0xff;
}

/* Finds a device of a virtio type, and brings it to where it answers; whether there is one. */
static int find_on_pci(uint32_t type)
{
    uint32_t slot = 0, multiplier = 0;
    while (configuration(slot, 0) != ((FIRST_ID + type) << 16 | VIRTIO_VENDOR))
        if (++slot == SLOT_COUNT)
            return 0;
    /* Ours has all structures in BAR 0, QEMU in BAR 4. */
    uint32_t bar = BAR0 + 4 * bar_of_structures(slot);
    configure(slot, COMMAND, 0);
    configure(slot, bar, 0xffffffff);
    if ((configuration(slot, bar) & 7) != 4)
        fail("the BAR of slot # is no memory of 64 bits", (uint64_t)slot);
    uint32_t place = BARS + slot * BAR_SHARE;
    configure(slot, bar, place);
    configure(slot, bar + 4, 0);
    configure(slot, COMMAND, MEMORY_SPACE | BUS_MASTER);
    for (uint32_t at = configuration(slot, CAPABILITIES) & 0xff; at;
         at = configuration(slot, at + 1) & 0xff) {
        if ((configuration(slot, at) & 0xff) != VENDOR_CAPABILITY)
            continue;
        volatile uint8_t *structure =
            (volatile uint8_t *)(uint64_t)(place + configuration(slot, at + 8));
        switch (configuration(slot, at) >> 24) {
        case COMMON_STRUCTURE: common = structure; break;
        case NOTIFY_STRUCTURE:
            notification = structure;
            multiplier = configuration(slot, at + 16);
            break;
        case DEVICE_STRUCTURE: device_fields = structure; break;
        }
    }
    if (!common || !notification || !device_fields)
        fail("the function in slot # lacks a structure", (uint64_t)slot);
    *(volatile uint16_t *)(common + 0x16) = 0;
    notification += *(volatile uint16_t *)(common + 0x1e) * multiplier;
    return 1;
}

/* Where in the common structure a register of virtio-mmio has its counterpart. */
static uint32_t field_of(uint32_t offset)
{
    switch (offset) {
    case DEVICE_FEATURES_SEL: return 0x00;
    case DEVICE_FEATURES: return 0x04;
    case DRIVER_FEATURES_SEL: return 0x08;
    case DRIVER_FEATURES: return 0x0c;
    case STATUS: return 0x14;
    case QUEUE_SEL: return 0x16;
    case QUEUE_SIZE_MAX: case QUEUE_SIZE: return 0x18;
    case QUEUE_READY: return 0x1c;
    default: return 0x20 + (offset & 4) + ((offset - QUEUE_DESC) >> 4) * 8;
    }
}

static uint32_t get_from_pci(uint32_t offset)
{
    if (offset >= CONFIG)
        return *(volatile uint32_t *)(device_fields + offset - CONFIG);
    uint32_t field = field_of(offset);
    if (field == 0x14)
        return common[field];
    return field < 0x10 || field >= 0x20 ? *(volatile uint32_t *)(common + field)
                                         : *(volatile uint16_t *)(common + field);
}

static void put_to_pci(uint32_t offset, uint32_t value)
{
    if (offset == QUEUE_NOTIFY) {
        *(volatile uint16_t *)notification = value;
        return;
    }
    uint32_t field = field_of(offset);
    if (field == 0x14)
        common[field] = value;
    else if (field < 0x10 || field >= 0x20)
        *(volatile uint32_t *)(common + field) = value;
    else
        *(volatile uint16_t *)(common + field) = value;
}
