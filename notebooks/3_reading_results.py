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
# # Reading and comparing results
#
# Every table of `docs/results.md` is made from the files in `results/`: one row per job, the scores of
# single images beside it. This notebook reads them; it needs no tracking store and no images.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import HTML, Markdown, display

from harness.charts import histogram, roc_chart
from harness.report.caption import caption
from harness.report.declaration import read_tables
from harness.report.formats import markdown
from harness.report.layout import grid_of
from harness.report.paired import compare
from harness.report.stored import read_or_empty

# %% [markdown]
# `ROOT` is the checkout.

# %%
ROOT = Path(os.environ.get("DFKDE_CHECKOUT", ".."))
tables = read_tables(ROOT / "conf")
held = {name: read_or_empty(ROOT / "results", name) for name in tables}
filled = [name for name in tables if tables[name].headline and held[name].scores]
print("tables with runs:", ", ".join(filled) or "none yet")

# %% [markdown]
# ## A table, as `docs/results.md` has it

# %%
name = filled[0]
table, results = tables[name], held[name]
display(Markdown(markdown(grid_of(table, results), caption(table, results.rows))))

# %% [markdown]
# ## Where a number comes from
#
# A row traces each number to its run, its data, its weights and its commit.

# %%
row = results.rows[0]
for column in ("run_id", "identity", "commit", "weights_digest", "data_fingerprint", "started"):
    print(f"{column:17}", getattr(row, column))
print(results.environments[row.environment])

# %% [markdown]
# ## The scores behind it

# %%
category, scores = next(iter(results.scores.items()))
style = "<style>svg {max-width: 26em; font-size: 12px} .curve {fill: none; stroke: #26b}</style>"
display(HTML(style + roc_chart(category, scores).svg + histogram(category, scores).svg))

# %%
figure, axis = plt.subplots(figsize=(6, 0.4 * len(results.rows) + 1))
rows = [row for row in results.rows if "image_auroc" in row.low]
for height, row in enumerate(rows):
    axis.plot([row.low["image_auroc"], row.high["image_auroc"]], [height, height], color="gray")
    axis.plot(row.metrics["image_auroc"], height, "o", color="tab:blue")
axis.set_yticks(range(len(rows)), [row.category for row in rows])
axis.set_xlabel("image AUROC and 95 % interval")

# %% [markdown]
# ## Two tables compared
#
# On the same test images: paired bootstrap in each category, Wilcoxon's test over categories.

# %%
pairs = [
    (one, two)
    for one in filled
    for two in filled
    if one < two and set(held[one].scores) & set(held[two].scores)
    and tables[one].choice("dataset") == tables[two].choice("dataset")
]
for one, two in pairs:
    display(Markdown(compare((tables[one], held[one]), (tables[two], held[two]))))
print(f"{len(pairs)} pairs of tables share a category")
