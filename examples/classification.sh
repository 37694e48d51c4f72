#!/bin/sh
# Classification, C1, N6 and T1, as curl lines. MODELYARD_URL names the server; MODELYARD_API_KEY holds a key where one
# is needed. The last case needs the command `modelyard` with the extra `tensorboard`.
set -eu
url=${MODELYARD_URL:-http://127.0.0.1:8000}
curl() { command curl -sS --fail-with-body ${MODELYARD_API_KEY:+-H "X-API-Key: $MODELYARD_API_KEY"} "$@"; }
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cd "$work"

echo "C1. Two clouds of points, a fifth of the rows held out; then measured on fresh rows."
curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
  "kind": "train",
  "architecture": {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 2]}],
    "root": {"type": "Sequential", "layers": [
      {"type": "Linear", "in_features": 2, "out_features": 10},
      {"type": "ReLU"},
      {"type": "Linear", "in_features": 10, "out_features": 2}
    ]}
  },
  "dataset": {"type": "gaussian_clouds", "centers": [[2, 2], [-2, -2]], "std": 1.0, "rows_per_class": 100, "seed": 1},
  "split": {"type": "stratified", "validation": 0.2, "seed": 1},
  "objective": {"type": "cross_entropy"},
  "optimizer": {"type": "SGD", "lr": 0.02},
  "budget": {"epochs": 100},
  "seed": 1,
  "output": {"model": "two-clouds"}
}' > job.json
grep -o '"last":{[^}]*}' job.json
job=$(grep -o '"id":"job_[0-9a-f]*"' job.json | cut -d '"' -f 4)
curl "$url/v1/jobs/$job/figures/decision" -o decision.json # Plotly JSON: the rows, and what the net says around them
curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
  "kind": "evaluate",
  "model": "two-clouds",
  "dataset": {"type": "gaussian_clouds", "centers": [[2, 2], [-2, -2]], "std": 1.0, "rows_per_class": 100, "seed": 2},
  "objective": {"type": "cross_entropy"}
}' | grep -o '"last":{[^}]*"accuracy":[^}]*}'
curl "$url/predict" --json '{"model": "two-clouds", "inputs": [[2, 2], [-2, -2]]}' |
  grep -o '"labels":\["0","1"\],"probabilities":.*"classes":\["0","1"\]'

echo "N6. The tutorials' net for CIFAR-10: its shapes and parameters before anything is computed."
cat > net.json <<'JSON'
{
  "schema": "arch/1",
  "inputs": [{"name": "x", "shape": ["B", 3, 32, 32]}],
  "root": {"type": "Sequential", "layers": [
    {"type": "Conv2d", "in_channels": 3, "out_channels": 32, "kernel_size": 5, "padding": 2},
    {"type": "MaxPool2d", "kernel_size": 2},
    {"type": "Conv2d", "in_channels": 32, "out_channels": 32, "kernel_size": 5, "padding": 2},
    {"type": "MaxPool2d", "kernel_size": 2},
    {"type": "Conv2d", "in_channels": 32, "out_channels": 64, "kernel_size": 5, "padding": 2},
    {"type": "MaxPool2d", "kernel_size": 2},
    {"type": "Flatten"},
    {"type": "Linear", "in_features": 1024, "out_features": 64},
    {"type": "Linear", "in_features": 64, "out_features": 10}
  ]}
}
JSON
curl "$url/v1/architectures/validate" --json @net.json > verdict.json
grep -o '"valid":true' verdict.json
grep -o '"parameters":145578' verdict.json | sort -u
job=$(curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
  "kind": "train",
  "architecture": '"$(cat net.json)"',
  "dataset": {"type": "striped_images", "classes": 10, "rows_per_class": 20, "seed": 1},
  "objective": {"type": "cross_entropy"},
  "optimizer": {"type": "SGD", "lr": 0.01},
  "batch_size": 64,
  "budget": {"epochs": 1},
  "seed": 1,
  "output": {"model": "ten-classes"}
}' | grep -o '"id":"job_[0-9a-f]*"' | cut -d '"' -f 4)
curl "$url/v1/jobs/$job" | grep -o '"output":{[^}]*"version":[0-9]*'

echo "   ones(64, 3, 32, 32) by the Open Inference Protocol: the answer has the shape (64, 10)."
ones=$(yes 1 | head -n 196608 | paste -sd , -)
printf '{"inputs": [{"name": "x", "shape": [64, 3, 32, 32], "datatype": "FP32", "data": [%s]}]}' "$ones" > ones.json
curl "$url/v2/models/ten-classes/infer" --json @ones.json | grep -o '"shape":\[64,10\]'

echo "T1. The same job in TensorBoard: curves, images, feature maps, graph. Without --once it opens a page."
modelyard tensorboard "$job" --url "$url" --logdir runs --once
find runs -name 'events.*' | grep .
