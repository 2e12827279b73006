"""Pictures of one job's result, as SVG: drawn in a millisecond, sharp at every size.

A plotting library takes a tenth of a second for such a figure, as long as all the rest of a job
whose features are cached.
"""

from harness.figures.curves import draw_curves
from harness.figures.mistakes import draw_mistakes

__all__ = ["draw_curves", "draw_mistakes"]
