"""Backbones: the factories that `conf/backbone` names, and how one is loaded."""
