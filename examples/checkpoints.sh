#!/bin/sh
# Known nets and old files, V1 to V3, S1 and S2, as curl lines. MODELYARD_URL names the server; MODELYARD_API_KEY holds a
# key where one is needed.
set -eu
url=${MODELYARD_URL:-http://127.0.0.1:8000}
curl() { command curl -sS --fail-with-body ${MODELYARD_API_KEY:+-H "X-API-Key: $MODELYARD_API_KEY"} "$@"; }
upload() { curl "$url/v1/uploads" -H 'Content-Type: application/octet-stream' --data-binary "@$1" | grep -o 'up_[0-9a-f]*'; }
old=$(cd "$(dirname "$0")/old" && pwd)
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cd "$work"

echo "V1. VGG16 by its name: torchvision's 32 keys and 138,357,544 parameters, without a single weight in memory."
curl "$url/v1/architectures/catalogue/vgg16" > vgg16.json
curl "$url/v1/architectures/validate" --json @vgg16.json | grep -o '"parameters":138357544' | sort -u

echo "V2. Surgery on VGG16: what becomes of each weight, before any training."
for edit in \
  '{"op": "append", "path": "", "name": "add_linear", "layer": {"type": "Linear", "in_features": 1000, "out_features": 10}}' \
  '{"op": "append", "path": "classifier", "name": "7", "layer": {"type": "Linear", "in_features": 1000, "out_features": 10}}' \
  '{"op": "replace", "path": "classifier.6", "layer": {"type": "Linear", "in_features": 4096, "out_features": 10}, "policy": "reinit"}'; do
  curl "$url/v1/architectures/edit" --json '{
    "from": {"architecture": {"catalogue": "vgg16"}}, "edits": ['"$edit"'], "dry_run": true
  }' > edited.json
  kept=$(grep -o '"kept":\[[^]]*\]' edited.json | grep -o '"to":' | wc -l)
  fresh=$(grep -o '"weights":.*' edited.json | grep -o '"key":"[^"]*"\|"new":\["[^]]*\]')
  echo "kept $kept of 32, drawn anew: $(echo "$fresh" | paste -sd " " -)"
done

echo "V3. Fine-tuning: a checkpoint comes in, its head is replaced, all but the head is frozen."
cat > net.json <<'JSON'
{
  "schema": "arch/1",
  "inputs": [{"name": "x", "shape": ["B", 3, 32, 32]}],
  "root": {
    "type": "Graph",
    "layers": [
      {"name": "conv", "type": "Conv2d", "in_channels": 3, "out_channels": 8, "kernel_size": 3, "stride": 2},
      {"name": "norm", "type": "BatchNorm2d", "num_features": 8},
      {"name": "pool", "type": "AdaptiveAvgPool2d", "output_size": 1},
      {"name": "head", "type": "Linear", "in_features": 8, "out_features": 4}
    ],
    "forward": ["x = relu(norm(conv(x)))", "return head(flatten(pool(x), 1))"]
  }
}
JSON
curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
  "kind": "train",
  "architecture": '"$(cat net.json)"',
  "dataset": {"type": "striped_images", "classes": 4, "rows_per_class": 20, "seed": 1},
  "objective": {"type": "cross_entropy"},
  "optimizer": {"type": "Adam", "lr": 0.01},
  "batch_size": 16,
  "budget": {"epochs": 2},
  "seed": 1,
  "output": {"model": "stripes"}
}' | grep -o '"output":{[^}]*"version":[0-9]*'
curl "$url/v1/models/stripes/versions/1/weights?format=pt" -o pretrained.pt
curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
  "kind": "import", "upload": "'"$(upload pretrained.pt)"'", "architecture": '"$(cat net.json)"',
  "output": {"model": "pretrained"}
}' | grep -o '"outcome":"exact"'
curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
  "kind": "train",
  "architecture": {
    "from": {"model": "pretrained", "version": 1},
    "edits": [
      {"op": "replace", "path": "head", "layer": {"type": "Linear", "in_features": "auto", "out_features": 10}},
      {"op": "freeze", "path": "**"},
      {"op": "unfreeze", "path": "head"}
    ]
  },
  "dataset": {"type": "striped_images", "classes": 10, "rows_per_class": 20, "seed": 2},
  "objective": {"type": "cross_entropy"},
  "optimizer": {"type": "Adam", "lr": 0.01},
  "batch_size": 16,
  "budget": {"epochs": 2},
  "seed": 1,
  "output": {"model": "fine-tuned"}
}' | grep -o '"output":{[^}]*"version":[0-9]*'
curl "$url/v1/models/fine-tuned/versions/1" | grep -o '"certificate":{[^}]*"unchanged":true[^}]*}'

echo "S1. A whole net, whose class is gone: its layers and tensors are read as data, its forward comes as text."
curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
  "kind": "import", "upload": "'"$(upload "$old/net.pth")"'", "output": {"model": "zbx"}
}' | grep -o '"code":"architecture_needed"'
curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
  "kind": "import",
  "upload": "'"$(upload "$old/net.pth")"'",
  "inputs": [{"name": "x", "shape": ["B", 2]}],
  "forward": ["return predict(relu(hidden(x)))"],
  "output": {"model": "zbx"}
}' | grep -o '"outcome":"translated"'
curl "$url/predict" --json '{"model": "zbx", "inputs": [[0.5, -1.0], [2.0, 0.25]]}' | grep -o '"outputs":.*\]\]' > whole.txt
cat whole.txt

echo "S2. Its state_dict, saved on a GPU: loaded here, strictly; keys that do not fit are listed."
curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
  "kind": "import",
  "upload": "'"$(upload "$old/state.pth")"'",
  "architecture": {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 2]}],
    "root": {
      "type": "Graph",
      "layers": [
        {"name": "hidden", "type": "Linear", "in_features": 2, "out_features": 8},
        {"name": "predict", "type": "Linear", "in_features": 8, "out_features": 3}
      ],
      "forward": ["return predict(relu(hidden(x)))"]
    }
  },
  "output": {"model": "zbx-state"}
}' | grep -o '"outcome":"exact"'
curl "$url/predict" --json '{"model": "zbx-state", "inputs": [[0.5, -1.0], [2.0, 0.25]]}' |
  grep -o '"outputs":.*\]\]' | cmp - whole.txt
curl "$url/v1/jobs" -H 'Prefer: wait=60' --json '{
  "kind": "import",
  "upload": "'"$(upload "$old/state.pth")"'",
  "architecture": {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 2]}],
    "root": {"type": "Graph", "layers": [
      {"name": "hidden", "type": "Linear", "in_features": 2, "out_features": 16},
      {"name": "output", "type": "Linear", "in_features": 16, "out_features": 3}
    ], "forward": ["return output(relu(hidden(x)))"]}
  },
  "output": {"model": "zbx-wrong"}
}' | grep -o '"missing":.*"needs"'
