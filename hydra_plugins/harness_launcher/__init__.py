"""The launchers of the harness, found by Hydra through their namespace package."""
