# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own runs
#
# Every job that `harness.run` has finished is a run in an MLflow store, with the score of each test
# image. This notebook reads the store of a folder: what there is, the scores behind a number, and
# which of two runs is better on the same images. It needs no images. Without runs yet: `make demo`.

# %%
import os
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML, display

from harness.charts import histogram, roc_chart
from harness.report.bootstrap import difference_of, images_of, interval, p_value, resample
from harness.tracking.read import read_runs, read_scores

# %% [markdown]
# `FOLDER` is where the commands were started.

# %%
FOLDER = Path(os.environ.get("DFKDE_FOLDER", "..")).resolve()
URI = f"sqlite:///{FOLDER / 'runs' / 'mlflow.db'}"
runs = [run for run in read_runs(URI) if run.status == "finished"]
print(len(runs), "finished runs")

# %%
rows = [
    {"run": run.run_id[:8], "dataset": run.record.dataset, "category": run.record.category}
    | {"model": run.record.model, "backbone": run.record.backbone, "seed": run.record.seed}
    | run.record.metrics
    for run in runs
]
display(pd.DataFrame(rows).round(3))

# %% [markdown]
# ## The scores behind a number
#
# Of the newest run: the curve, and the scores of each defect type. The interval is that of the image
# AUROC over test sets like this one.

# %%
newest = runs[0]
title = f"{newest.record.dataset}/{newest.record.category}"
scores = read_scores(newest.run_id, URI)
style = "<style>svg {max-width: 26em; font-size: 12px} .curve {fill: none; stroke: #26b}</style>"
display(HTML(style + roc_chart(title, scores).svg + histogram(title, scores).svg))
auroc = resample(images_of(scores), key=title)
print(f"image AUROC {auroc.value:.3f}, 95 % interval", interval(auroc))

# %% [markdown]
# ## The images that it is most wrong about
#
# Normal images with the highest scores, and anomalous ones with the lowest.

# %%
normal = sorted((s for s in scores if not s.anomalous), key=lambda s: -s.score)[:5]
missed = sorted((s for s in scores if s.anomalous), key=lambda s: s.score)[:5]
display(pd.DataFrame([s._asdict() for s in (*normal, *missed)]))

# %% [markdown]
# ## Two runs on the same images
#
# The newest two runs of each category that differ: a paired bootstrap draws the same test images for
# both, so that what is hard in an image cancels.

# %%
by_category = defaultdict(list)
for run in runs:
    by_category[run.record.dataset, run.record.category].append(run)
names, points = [], []
for (dataset, category), own in by_category.items():
    if len(own) < 2:
        continue
    one, other = own[1], own[0]
    pair = [sorted(read_scores(run.run_id, URI)) for run in (one, other)]
    if [s.image for s in pair[0]] != [s.image for s in pair[1]]:
        continue  # another split
    difference = difference_of(
        *(resample(images_of(each), key=f"{dataset}/{category}") for each in pair)
    )
    low, high = interval(difference) or (difference.value, difference.value)
    names.append(f"{category}\n{other.run_id[:8]} - {one.run_id[:8]}")
    points.append((difference.value, low, high))
    print(f"{dataset}/{category}: {difference.value:+.3f}, p = {p_value(difference):.3f}")
print(len(names), "categories have two runs")

# %%
if points:
    value, low, high = np.array(points).T
    figure, axis = plt.subplots(figsize=(6, 0.6 * len(names) + 1))
    axis.errorbar(value, range(len(names)), xerr=[value - low, high - value], fmt="o")
    axis.axvline(0, color="gray")
    axis.set_yticks(range(len(names)), names)
    axis.set_xlabel("difference in image AUROC, 95 % interval")
