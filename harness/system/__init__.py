"""What stands between the harness and the operating system: files, locks, threads, terminal."""
