"""Datasets: read, verified, fingerprinted and split."""

from harness.data.images import read_image, read_mask
from harness.data.listing import DataError
from harness.data.load import decoding_of, load_split
from harness.data.readers import READERS
from harness.data.split import NORMAL, Sample, Split, random_stream

__all__ = [
    "NORMAL",
    "READERS",
    "DataError",
    "Sample",
    "Split",
    "decoding_of",
    "load_split",
    "random_stream",
    "read_image",
    "read_mask",
]
