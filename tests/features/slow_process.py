"""Extract the images of a folder at leisure, as a process of its own.

Usage: `python -m tests.features.slow_process IMAGES CACHE START`; it begins once START exists and
prints how many images it computed, and a digest of all features.
"""

import hashlib
import sys
import time
from pathlib import Path

from harness.config import FeaturesConfig
from harness.features import reader
from harness.features.reader import FeatureReader
from tests.features.images import PLAIN, PlainEngine, sample_of

SIZE = 32
SETTINGS = FeaturesConfig(engine="torch", device="cpu", workers=2)


class SlowEngine(PlainEngine):
    def __call__(self, images):
        time.sleep(0.1)
        return super().__call__(images)


def main(images, cache, start):
    reader.build_engine = lambda *args, **settings: SlowEngine()
    features = FeatureReader(PLAIN, image_size=SIZE, cache=cache, settings=SETTINGS)
    samples = [sample_of(path) for path in sorted(images.iterdir())]
    while not start.exists():
        time.sleep(0.01)
    digest = hashlib.sha256(features.pooled(samples).tobytes()).hexdigest()
    sys.stdout.write(f"{features.n_extracted} {digest}\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
