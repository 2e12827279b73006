"""The harness and the operating system: files, locks, threads, secrets and the terminal."""
