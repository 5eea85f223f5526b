"""What a debugger needs of an x86 vCPU: its registers as GDB has them, breakpoints and steps."""
