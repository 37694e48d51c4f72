# %% [markdown]
# # Known nets and old files: V1 to V3, S1 and S2
#
# Start a server with `modelyard serve`; `MODELYARD_URL` names another one, and `MODELYARD_API_KEY` holds a key where
# one is needed. torch is used here only to look into files; the server reads them as data, and runs nothing of them.

# %%
import io
import json
from pathlib import Path

import torch

from service.client import Client

client = Client()

# %% [markdown]
# ## V1. VGG16, by its name
#
# torchvision's keys and 138,357,544 parameters, counted without a single weight in memory.

# %%
vgg16 = client.architectures.net("vgg16")
summary = client.architectures.validate(vgg16).summary
print(summary.parameters, "parameters,", sum(layer.parameters > 0 for layer in summary.layers), "layers with weights")
assert summary.parameters == 138_357_544

# %% [markdown]
# ## V2. Surgery, as data
#
# Append a layer at the root or inside of `classifier`, or replace the last one. A dry run says what becomes of each
# weight, before any training; what is appended is called.

# %%
head = {"type": "Linear", "in_features": 1000, "out_features": 10}
edits = [
    {"op": "append", "path": "", "name": "add_linear", "layer": head},
    {"op": "append", "path": "classifier", "name": "7", "layer": head},
    {"op": "replace", "path": "classifier.6", "layer": {**head, "in_features": 4096}, "policy": "reinit"},
]
for edit in edits:
    body = {"from": {"architecture": {"catalogue": "vgg16"}}, "edits": [edit], "dry_run": True}
    edited = client.architectures.edit(body)
    fresh = [*edited.weights.new, *(tensor["key"] for tensor in edited.weights.reshaped)]
    print(edit["op"], edit["path"] or "(root)", f"keeps {len(edited.weights.kept)} of 32, new are", fresh)
    assert len(fresh) == 2
    assert edited.summary.outputs[0].shape == ["B", 10]

# %% [markdown]
# ## V3. Fine-tuning a checkpoint
#
# A net with BatchNorm is trained on four classes and its weights leave as a file, as somebody's checkpoint would come.


# %%
def done(request):
    return client.jobs.wait(client.jobs.submit(request))


net = {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 3, 32, 32]}],
    "root": {
        "type": "Graph",
        "layers": [
            {"name": "conv", "type": "Conv2d", "in_channels": 3, "out_channels": 8, "kernel_size": 3, "stride": 2},
            {"name": "norm", "type": "BatchNorm2d", "num_features": 8},
            {"name": "pool", "type": "AdaptiveAvgPool2d", "output_size": 1},
            {"name": "head", "type": "Linear", "in_features": 8, "out_features": 4},
        ],
        "forward": ["x = relu(norm(conv(x)))", "return head(flatten(pool(x), 1))"],
    },
}
training = {
    "kind": "train",
    "architecture": net,
    "dataset": {"type": "striped_images", "classes": 4, "rows_per_class": 20, "seed": 1},
    "objective": {"type": "cross_entropy"},
    "optimizer": {"type": "Adam", "lr": 0.01},
    "batch_size": 16,
    "budget": {"epochs": 2},
    "seed": 1,
    "output": {"model": "stripes"},
}
checkpoint = client.versions.weights("stripes", done(training).version, format="pt")

# %% [markdown]
# The checkpoint is imported, its head replaced by one for ten classes, and all but the head is frozen.

# %%
upload = client.uploads.add(checkpoint)
imported = done({"kind": "import", "upload": upload.id, "architecture": net, "output": {"model": "pretrained"}})
fine_tuning = {
    **training,
    "architecture": {
        "from": {"model": "pretrained", "version": imported.version},
        "edits": [
            {
                "op": "replace",
                "path": "head",
                "layer": {"type": "Linear", "in_features": "auto", "out_features": 10},
            },
            {"op": "freeze", "path": "**"},
            {"op": "unfreeze", "path": "head"},
        ],
    },
    "dataset": {"type": "striped_images", "classes": 10, "rows_per_class": 20, "seed": 2},
    "output": {"model": "fine-tuned"},
}
version = client.versions.get("fine-tuned", done(fine_tuning).version)
print(version.lineage["certificate"])

# %% [markdown]
# What was frozen is the same to the bit, the running statistics of BatchNorm too.

# %%
before = torch.load(io.BytesIO(checkpoint), weights_only=True)
after = torch.load(io.BytesIO(client.versions.weights("fine-tuned", version.version, format="pt")), weights_only=True)
for key, tensor in before.items():
    if not key.startswith("head."):
        assert torch.equal(after[key], tensor), key
print({key: tuple(tensor.shape) for key, tensor in after.items()})

# %% [markdown]
# ## S1. A whole net, whose class is gone
#
# `torch.load` asks for a class that exists nowhere any more. Here the file is read as data; the job's report says what
# is missing, which is how the net calls its layers. That comes as text.

# %%
old = Path("old") if Path("old").is_dir() else Path(__file__).parent / "old"
known = json.loads((old / "answers.json").read_text())
upload = client.uploads.add(old / "net.pth")
request = {"kind": "import", "upload": upload.id, "output": {"model": "zbx"}}
job = client.jobs.wait(client.jobs.submit(request), check=False)
print(job.error.code, job.error.detail)
for layer in job.report["layers"]:
    print(layer)
print(job.report["needs"])
assert job.error.code == "architecture_needed"
done({**request, "forward": ["return predict(relu(hidden(x)))"], "inputs": [{"name": "x", "shape": ["B", 2]}]})
answer = client.predict("zbx", known["inputs"])
print(answer.outputs)
assert torch.equal(torch.tensor(answer.outputs), torch.tensor(known["outputs"]))  # what the net answered back then

# %% [markdown]
# ## S2. A state_dict from another device
#
# Saved on a GPU, loaded where there is none, strictly. Keys that do not fit are listed.


# %%
def zbx(width, last):
    layers = [
        {"name": "hidden", "type": "Linear", "in_features": 2, "out_features": width},
        {"name": last, "type": "Linear", "in_features": width, "out_features": 3},
    ]
    root = {"type": "Graph", "layers": layers, "forward": [f"return {last}(relu(hidden(x)))"]}
    return {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 2]}], "root": root}


request = {"kind": "import", "upload": client.uploads.add(old / "state.pth").id, "output": {"model": "zbx-state"}}
job = done({**request, "architecture": zbx(8, "predict")})
print(job.report["outcome"])
assert client.predict("zbx-state", known["inputs"]).outputs == answer.outputs

# %%
wrong = client.jobs.submit({**request, "architecture": zbx(16, "output")})
wrong = client.jobs.wait(wrong, check=False)
for what in ("missing", "unexpected", "mismatched"):
    print(what, wrong.report[what])
assert wrong.report["missing"] == ["output.weight", "output.bias"]

# %%
client.close()
