"""How the intervals are made: what captions quote. Imports nothing."""

CONFIDENCE = 0.95
"""Two-sided coverage of every interval."""

RESAMPLES = 10_000
"""Bootstrap resamples of every interval."""

SEED = 42
"""Of the resampling; it has nothing to do with the seed of a run."""

INTERVAL_METRIC = "image_auroc"
"""The one metric with intervals. Pixel metrics are no function of per-image scores. The best F1
over thresholds is one, but it is chosen on the images that are resampled: on simulated scores the
bootstrap's 95 % interval of it held the truth in as few as 80 % of test sets
(`benchmarks/intervals.py`)."""
