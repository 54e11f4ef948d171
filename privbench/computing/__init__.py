"""An attack on this machine: devices, threads, signals, a process of its own, its progress as trace and checkpoints."""
