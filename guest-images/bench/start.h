/*
 * From the PVH entry to main() in user mode: flat memory, no interrupts, ports open.
 *
 * Xen x86/HVM direct boot ABI; Intel SDM vol. 3 "Initializing IA-32e Mode", "Task Management". The
 * tables are data of the program, so that few instructions are left for hosts that emulate the
 * kernel's mode. Those also lose the I/O privilege level in user mode, so that the ports are opened
 * by the I/O permission bitmap.
 */

#include <stdint.h>

/* hvm_start_info, as far as it is read. */
struct start_info {
    uint32_t magic, version, flags, module_count;
    uint64_t modules, command_line;
};

#define START_INFO_MAGIC 0x336ec578

__attribute__((noreturn)) void main(const struct start_info *info);

__asm__(
    ".section .note.Xen, \"a\", @note\n"
    "    .balign 4\n"
    "    .long 4, 4, 18\n"                /* XEN_ELFNOTE_PHYS32_ENTRY */
    "    .asciz \"Xen\"\n"
    "    .long start\n"

    /* All of the first 4 GiB, for user mode, by pages of 2 MiB: present, writable, user, accessed,
       dirty, page size. */
    ".data\n"
    "    .balign 4096\n"
    "directories:\n"
    "    .set address, 0\n"
    "    .rept 2048\n"
    "    .quad address + 0xe7\n"
    "    .set address, address + 0x200000\n"
    "    .endr\n"
    "pointers:\n"
    "    .quad directories + 0x27, directories + 0x1027, directories + 0x2027\n"
    "    .quad directories + 0x3027\n"
    "    .balign 4096\n"
    "level4:\n"
    "    .quad pointers + 0x27\n"
    "segments:\n"
    "    .quad 0\n"
    "    .quad 0x00af9b000000ffff\n"      /* 0x08: kernel code, 64 bits */
    "    .quad 0x00cf93000000ffff\n"      /* 0x10: kernel data */
    "    .quad 0x00cff3000000ffff\n"      /* 0x1b: user data */
    "    .quad 0x00affb000000ffff\n"      /* 0x23: user code, 64 bits */
    "task_segment:\n"                    /* 0x28: task state, its address comes below */
    "    .quad 0x0000890000000208, 0\n"
    "segments_register:\n"
    "    .word . - segments - 1\n"
    "    .quad segments\n"
    "task_state:\n"
    "    .skip 102\n"
    "    .word 104\n"                    /* where the bitmap begins: 0 opens a port */
    "    .skip 0xd00 / 8\n"             /* up to the configuration ports of PCI */
    "    .byte 0xff\n"

    ".section .bss.stack, \"aw\", @nobits\n"
    "    .balign 16\n"
    "    .skip 16384\n"
    "stack_top:\n"

    ".text\n"
    ".code32\n"
    ".globl start\n"
    "start:\n"
    "    movl $level4, %eax\n"
    "    movl %eax, %cr3\n"
    "    movl %cr4, %eax\n"
    "    orl $0x20, %eax\n"               /* PAE */
    "    movl %eax, %cr4\n"
    "    movl $0xc0000080, %ecx\n"        /* EFER.LME */
    "    rdmsr\n"
    "    orl $0x100, %eax\n"
    "    wrmsr\n"
    "    lgdt segments_register\n"
    "    movl $task_state, %eax\n"
    "    movw %ax, task_segment + 2\n"
    "    shrl $16, %eax\n"
    "    movb %al, task_segment + 4\n"
    "    movb %ah, task_segment + 7\n"
    "    movl %cr0, %eax\n"
    "    orl $0x80000000, %eax\n"
    "    movl %eax, %cr0\n"
    "    ljmp $0x08, $long_mode\n"
    ".code64\n"
    "long_mode:\n"
    "    movl $0x28, %eax\n"
    "    ltr %ax\n"
    "    movl $0x10, %eax\n"
    "    movl %eax, %ss\n"
    "    movl $0x1b, %eax\n"
    "    movl %eax, %ds\n"
    "    movl %eax, %es\n"
    "    movl %ebx, %edi\n"
    "    movl $stack_top, %esp\n"
    "    pushq $0x1b\n"
    "    pushq $stack_top - 8\n"
    "    pushq $0x2\n"                    /* interrupts off */
    "    pushq $0x23\n"
    "    pushq $main\n"
    "    iretq\n");
