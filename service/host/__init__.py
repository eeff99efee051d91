"""What this host allows the process: CPUs and memory."""
