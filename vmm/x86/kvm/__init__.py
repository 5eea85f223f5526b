"""The part of KVM's interface that only x86 has: structures, requests, and the vCPU's ioctls."""
