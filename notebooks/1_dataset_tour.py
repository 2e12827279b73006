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
# # A tour of a dataset
#
# What the harness sees of one category: which images train, which test, what a defect and its
# ground truth mask look like. Nothing here is measured.

# %%
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt

from harness.data import load_split, read_image, read_mask
from harness.data.load import dataset_settings
from harness.data.synthetic import Plan, write_synthetic

# %% [markdown]
# `ROOT` is the folder that holds MVTec AD's categories. Without one, a small synthetic dataset in
# the same layout takes its place: gratings, inverted inside an ellipse where they are defective.

# %%
ROOT = None
CATEGORY = "bottle"

if ROOT is None:
    folder = Path(tempfile.mkdtemp()) / "mvtec"
    ROOT = write_synthetic(folder, "mvtec", categories=[CATEGORY], plan=Plan(side=256))
dataset = replace(dataset_settings("mvtec", root=str(ROOT)), official=False)
split = load_split(dataset, CATEGORY, seed=42)

# %% [markdown]
# ## How many images of each kind
#
# All training images are normal (`good`). `official=False` lets any number of images pass; the
# benchmark itself refuses a category that differs from the published one.

# %%
print("train:", dict(Counter(sample.defect_type for sample in split.train)))
print("test: ", dict(Counter((sample.anomalous, sample.defect_type) for sample in split.test)))
print("fingerprint of the category's files:", split.fingerprint[:12])

# %% [markdown]
# ## One image of each defect type, and its mask

# %%
first = {(sample.anomalous, sample.defect_type): sample for sample in reversed(split.test)}
figure, axes = plt.subplots(2, len(first), figsize=(3 * len(first), 6), squeeze=False)
for column, ((_, defect_type), sample) in zip(axes.T, sorted(first.items()), strict=True):
    image = read_image(sample.path)
    column[0].imshow(image)
    column[0].set_title(defect_type)
    if sample.mask_path is not None:
        column[1].imshow(read_mask(sample.mask_path), cmap="gray")
    for axis in column:
        axis.set_axis_off()

# %% [markdown]
# ## How large the defects are
#
# The share of each defective image that its mask covers: small defects are what average-pooled
# features easily miss.

# %%
shares = {
    sample.name: read_mask(sample.mask_path).mean()
    for sample in split.test
    if sample.mask_path is not None
}
figure, axis = plt.subplots(figsize=(6, 3))
axis.hist(list(shares.values()), bins=20)
axis.set_xlabel("share of the image that is defective")
axis.set_ylabel("images")
print("smallest:", min(shares, key=shares.get))
