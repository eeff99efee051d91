"""What the machine or container allows this process: CPUs, memory and thread priority."""
