"""The test images that a job gets most wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from numpy.typing import NDArray

from harness.data import Sample
from harness.record import ImageScore, Mistake

EACH = 3
"""How many false alarms and how many misses at most."""


def most_wrong(
    test: Sequence[Sample],
    scores: Sequence[ImageScore],
    grids: Sequence[NDArray],
    *,
    covers: float = 1.0,
) -> tuple[Mistake, ...]:
    """Choose the images on the wrong side of images of the other kind, the farthest first.

    Parameters
    ----------
    test : sequence of Sample
        The test images.
    scores : sequence of ImageScore
        Their scores, in the same order.
    grids : sequence of ndarray of shape (h, w)
        Their anomaly maps, in the same order; empty if there are none.
    covers : float
        As in `Mistake`.

    Returns
    -------
    tuple of Mistake
        False alarms, then misses; none where the scores separate the two kinds.
    """
    place = {score.image: number for number, score in enumerate(scores)}
    return tuple(
        Mistake(
            image,
            f"{kind.replace('_', ' ')}: {note}",
            path=test[place[image.image]].path,
            anomaly_map=grids[place[image.image]] if grids else None,
            covers=covers,
        )
        for kind, image, note in wrong_side(scores)
    )


def wrong_side(scores: Sequence[ImageScore]) -> Iterator[tuple[str, ImageScore, str]]:
    """Choose images on the wrong side of some image of the other kind, the farthest first.

    Yields
    ------
    tuple of str, ImageScore and str
        `false_alarm` or `miss`, the image, and how many images it is on the wrong side of.
    """
    normal = sorted((s for s in scores if not s.anomalous), key=lambda s: -s.score)
    anomalous = sorted((s for s in scores if s.anomalous), key=lambda s: s.score)
    for image in normal[:EACH]:
        below = sum(other.score <= image.score for other in anomalous)
        if below:
            note = f"{below} of {len(anomalous)} anomalous images score no higher"
            yield "false_alarm", image, note
    for image in anomalous[:EACH]:
        above = sum(other.score >= image.score for other in normal)
        if above:
            yield "miss", image, f"{above} of {len(normal)} normal images score no lower"
