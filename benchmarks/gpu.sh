#!/bin/sh
# What is worth running where there is a GPU, without a download: the tests of the CUDA code, the
# speed of extraction, and one category with each model. Each of the three may take LIMIT, so that
# all of them end in under 13 minutes; if one fails, the others still run.
# `DEVICE=cpu ROUNDS=1 IMAGES=4 sh benchmarks/gpu.sh` tries the script itself, without a limit.
set -u
DEVICE=${DEVICE:-cuda}
PYTHON=${PYTHON:-.venv/bin/python}
ROUNDS=${ROUNDS:-3}
IMAGES=${IMAGES:-128}
if [ "$DEVICE" = cuda ]; then LIMIT=${LIMIT:-4m}; else LIMIT=${LIMIT:-0}; fi
STATUS=0
PART=
STORE=$(mktemp -d)
trap 'rm -rf "$STORE"' EXIT
trap 'kill $PART; exit 130' INT TERM

part() {
    echo "== $1, from $(date +%T)"
    shift
    timeout -k 10s "$LIMIT" "$@" &
    PART=$!
    wait "$PART" || STATUS=$?
}

echo "== device: $DEVICE"
if [ "$DEVICE" = cuda ]; then
    "$PYTHON" -c 'import torch; p = torch.cuda.get_device_properties(0)
print(p.name, f"{p.total_memory / 1e9:.0f} GB, torch {torch.__version__}, CUDA {torch.version.cuda}")'
fi

part "tests of the CUDA code" \
    "$PYTHON" -m pytest -q -rs tests/features/test_cuda.py

part "images/s, against the limit of the card's matrix products" \
    "$PYTHON" -m benchmarks.extraction --device "$DEVICE" --n "$IMAGES" --rounds "$ROUNDS"

part "one category with each model" \
    "$PYTHON" -m harness.run -m dataset=elpv category=mono n_train=100 \
    backbone=efficientnet_lite0 model=dfkde,dfkde_residual,knn,gaussian,patch_kde,padim,patchcore \
    "features.device=$DEVICE" "features.cache=$STORE/cache" "tracking.uri=sqlite:///$STORE/mlflow.db"

echo "== done at $(date +%T), status $STATUS"
exit $STATUS
