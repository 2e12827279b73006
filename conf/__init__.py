"""The configuration: groups of settings that Hydra composes."""
