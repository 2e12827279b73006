"""A sweep: its tasks, who does them, and what became of each."""
