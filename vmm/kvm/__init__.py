"""KVM: the system, virtual machine and vCPU file descriptors, each as a context manager.

KVM api.rst; names are the kernel's.
"""
