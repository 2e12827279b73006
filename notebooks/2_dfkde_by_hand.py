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
# # DFKDE by hand, on real solar cells
#
# Deep feature kernel density estimation in four steps: features, principal components, kernel
# density, score. Each step is written out once with SciPy and NumPy, and held against the
# estimator that the benchmark uses. The tables are made by `harness.run`, not here.
#
# The images are those of ELPV, electroluminescence images of solar cells: they come with the
# installation. Dark lines and areas are cracks and dead parts of a cell.

# %%
import matplotlib.pyplot as plt
import numpy as np
import yaml
from scipy.stats import gaussian_kde

from dfkde import DFKDE, localizer, render
from harness.config import conf_dir
from harness.config import BackboneConfig, FeaturesConfig
from harness.data import load_split, read_image
from harness.data.load import dataset_settings
from harness.features.reader import feature_reader

# %%
DATASET, CATEGORY = "elpv", "mono"  # or `"mvtec", "bottle"`, where that is in `data/mvtec`
N_TRAIN, EACH = 120, 4  # so that it takes a minute: few training images, each fourth test image

split = load_split(dataset_settings(DATASET), CATEGORY, seed=42, n_train=N_TRAIN)
test_images = split.test[::EACH]
print(len(split.train), "cells train,", len(test_images), "are tested")

# %% [markdown]
# ## 1. Features
#
# A network that was trained on ImageNet turns each image into one vector: its last feature map,
# averaged over all positions. EfficientNet-Lite0 comes with the installation.

# %%
settings = yaml.safe_load((conf_dir() / "backbone" / "efficientnet_lite0.yaml").read_text())
reader = feature_reader(BackboneConfig(**settings), FeaturesConfig(engine="torch", cache=None), image_size=256)
train = reader.pooled(split.train).astype(np.float64)
test = reader.pooled(test_images).astype(np.float64)
print("training features:", train.shape, "test features:", test.shape)

# %% [markdown]
# ## 2. Principal components
#
# The 16 directions along which the training features vary most.

# %%
center = train.mean(axis=0)
_, singular, directions = np.linalg.svd(train - center, full_matrices=False)
components = directions[:16]
train16, test16 = (train - center) @ components.T, (test - center) @ components.T
print(f"16 components hold {(singular[:16] ** 2).sum() / (singular**2).sum():.0%} of the variance")

# %% [markdown]
# ## 3. Kernel density
#
# A Gaussian on each training point, as wide as Scott's rule says. The density itself underflows
# far from the training images; its logarithm does not.

# %%
log_density = gaussian_kde(train16.T).logpdf(test16.T)

# %% [markdown]
# ## 4. The score
#
# The anomaly score is the negative log density. The estimator gives the same numbers.

# %%
scores = -log_density
model = DFKDE(n_components=16).fit(train)
np.testing.assert_allclose(model.anomaly_score(test), scores, rtol=1e-6)

# %%
labels = np.array([sample.anomalous for sample in test_images])
figure, axis = plt.subplots(figsize=(6, 3))
axis.hist([scores[~labels], scores[labels]], bins=20, stacked=True, label=["normal", "anomalous"])
axis.set_xlabel("anomaly score (negative log density)")
axis.legend()

# %% [markdown]
# The cells with the lowest and the highest scores: what the density takes for usual, and for not.

# %%
order = np.argsort(scores)
figure, axes = plt.subplots(2, 4, figsize=(10, 5.4))
for axis, index in zip(axes.ravel(), [*order[:4], *order[-4:]], strict=True):
    axis.imshow(read_image(test_images[index].path))
    axis.set_title(f"{test_images[index].defect_type}: {scores[index]:.1f}")
    axis.set_axis_off()

# %% [markdown]
# ## Where is the anomaly?
#
# The pooled feature is the mean over all positions, and the projection is linear. So the score can
# be computed again with one position at a time set to its training mean: where the score drops most,
# the anomaly is.

# %%
worst = test_images[int(np.argmax(scores))]
occlusion = localizer("occlusion")
occlusion.fit(model, train, list(reader.maps(split.train)))
feature_map = next(iter(reader.maps([worst])))
anomaly_map = render(occlusion.anomaly_map(feature_map), size=(256, 256))

figure, axes = plt.subplots(1, 2, figsize=(7, 3.5))
axes[0].imshow(read_image(worst.path))
axes[0].set_title(worst.name)
axes[1].imshow(anomaly_map)
axes[1].set_title("anomaly map")
for axis in axes:
    axis.set_axis_off()
