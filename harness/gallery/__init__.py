"""Pictures of what a run gets wrong and where it looks: `python -m harness.gallery`.

For each finished run of a table, the images, anomaly maps and masks of its most confident
mistakes and of its best and worst localisations, small, for `python -m harness.report html`.
Features come from the cache; nothing is measured that a table shows.
"""

from harness.gallery.draw import draw_gallery

__all__ = ["draw_gallery"]
