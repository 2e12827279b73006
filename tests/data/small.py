"""What the small synthetic datasets of these tests are."""

from __future__ import annotations

from dataclasses import replace

from harness.config import DatasetConfig
from harness.data.synthetic import Plan

PLAN = Plan(scale=0.08, side=32)
CATEGORY = {"mvtec": "bottle", "btad": "03", "visa": "cashew"}


def unofficial(dataset: DatasetConfig) -> DatasetConfig:
    """Return the settings with `official=false`."""
    return replace(dataset, official=False)
