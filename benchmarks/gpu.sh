#!/bin/sh
# What is worth running where there is a GPU, in well under 15 minutes and without a download: the
# tests of the CUDA code, the speed of extraction, and one category with each model.
# `DEVICE=cpu sh benchmarks/gpu.sh` tries the script itself; PYTHON, ROUNDS and IMAGES as below.
set -eu
DEVICE=${DEVICE:-cuda}
PYTHON=${PYTHON:-.venv/bin/python}
ROUNDS=${ROUNDS:-3}
IMAGES=${IMAGES:-128}
STORE=$(mktemp -d)
trap 'rm -rf "$STORE"' EXIT

echo "== device: $DEVICE"
if [ "$DEVICE" = cuda ]; then
    $PYTHON -c 'import torch; p = torch.cuda.get_device_properties(0)
print(p.name, f"{p.total_memory / 1e9:.0f} GB, torch {torch.__version__}, CUDA {torch.version.cuda}")'
fi

echo "== tests of the CUDA code"
$PYTHON -m pytest -q -rs tests/features/test_cuda.py

echo "== images/s, against the limit of the card's matrix products"
$PYTHON -m benchmarks.extraction --device "$DEVICE" --n "$IMAGES" --rounds "$ROUNDS"

echo "== one category with each model"
$PYTHON -m harness.run -m dataset=elpv category=mono n_train=100 backbone=efficientnet_lite0 \
    model=dfkde,dfkde_residual,knn,gaussian,patch_kde,padim,patchcore \
    "features.device=$DEVICE" "features.cache=$STORE/cache" "tracking.uri=sqlite:///$STORE/mlflow.db"
