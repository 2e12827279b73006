"""The sweeper of the harness, found by Hydra through its namespace package."""
