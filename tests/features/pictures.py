"""A picture with smooth and rough parts, written in every kind of file."""

import numpy as np
from PIL import Image

RNG = np.random.default_rng(5)
SMOOTH = np.clip(RNG.normal(128, 60, (61, 83, 4)).cumsum(1) % 256, 0, 255).astype(np.uint8)


def save(path, mode, **options):
    image = Image.fromarray(SMOOTH, "RGBA") if mode == "RGBA" else None
    if mode == "RGB":
        image = Image.fromarray(SMOOTH[..., :3].copy())
    if mode == "L":
        image = Image.fromarray(SMOOTH[..., 0].copy())
    if mode == "LA":
        image = Image.fromarray(SMOOTH[..., :2].copy(), "LA")
    if mode == "P":
        image = Image.fromarray(SMOOTH[..., :3].copy()).quantize(40)
    if mode == "1":
        image = Image.fromarray(SMOOTH[..., 0] > 128)
    if mode == "I;16":
        image = Image.fromarray(SMOOTH[..., 0].astype(np.uint16) * 255)
    image.save(path, **options)
    return path
