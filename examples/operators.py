# %% [markdown]
# # Operators and losses: N1 to N5 and L1
#
# Versions made of a document and given weights, without any training. Start a server with `modelyard serve`;
# `MODELYARD_URL` names another one, and `MODELYARD_API_KEY` holds a key where one is needed.

# %%
import numpy as np

from service.client import Client

client = Client()
image = [[1, 2, 0, 3, 1], [0, 1, 2, 3, 1], [1, 2, 1, 0, 0], [5, 2, 3, 1, 1], [2, 1, 0, 1, 1]]
kernel = [[1, 2, 1], [0, 1, 0], [2, 1, 0]]


def made(model, row, root, **more):
    """A version of a net that takes rows of this shape."""
    architecture = {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", *row]}], "root": root}
    job = client.jobs.submit({"kind": "import", "architecture": architecture, "output": {"model": model}, **more})
    return client.jobs.wait(job)


def one(layer):
    return {"type": "Sequential", "layers": [layer]}


# %% [markdown]
# ## N1. A net without parameters
#
# `forward` is text that is read, never run as Python.

# %%
made("plus-one", [], {"type": "Graph", "layers": [], "forward": ["return x + 1"]})
answer = client.predict("plus-one", [1.0])
print(answer.outputs)
assert answer.outputs == [2.0]

# %% [markdown]
# ## N2. A convolution with a given kernel
#
# Stride 1, stride 2, and a border of zeros.

# %%
expected = {
    "stride 1": [[10, 12, 12], [18, 16, 16], [13, 9, 3]],
    "stride 2": [[10, 12], [13, 3]],
    "padding 1": [[1, 3, 4, 10, 8], [5, 10, 12, 12, 6], [7, 18, 16, 16, 8], [11, 13, 9, 3, 4], [14, 13, 9, 7, 4]],
}
for words, output in expected.items():
    argument, number = words.split()
    layer = {"type": "Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 3, "bias": False}
    made("convolution", [1, 5, 5], one({**layer, argument: int(number)}), state_dict={"0.weight": [[kernel]]})
    found = client.predict("convolution", [[image]]).numpy()[0, 0]
    print(words, found, sep="\n")
    assert (found == output).all()

# %% [markdown]
# ## N3. Max-pooling of whole numbers
#
# `max_pool2d` of torch has no kernel for them; here they are cast to the declared type, since that is exact.

# %%
for ceil_mode, output in ((True, [[2, 3], [5, 1]]), (False, [[2]])):
    made("pooling", [1, 5, 5], one({"type": "MaxPool2d", "kernel_size": 3, "ceil_mode": ceil_mode}))
    found = client.predict("pooling", [[image]]).numpy()[0, 0]
    print(f"ceil_mode={ceil_mode}", found, sep="\n")
    assert (found == output).all()

# %% [markdown]
# ## N4. Activations

# %%
for activation, output in (("ReLU", [[1, 0], [0, 3]]), ("Sigmoid", [[0.731059, 0.377541], [0.268941, 0.952574]])):
    made("activation", [2], one({"type": activation}))
    found = client.predict("activation", [[1, -0.5], [-1, 3]]).numpy()
    print(activation, found, sep="\n")
    assert np.allclose(found, output, atol=1e-6)

# %% [markdown]
# ## N5. Feature maps
#
# A batch of 64 pictures of 32 × 32 becomes 64 × 6 maps of 30 × 30. The weights are drawn from a seed; arrays travel as
# bytes.

# %%
layer = {"type": "Conv2d", "in_channels": 3, "out_channels": 6, "kernel_size": 3}
made("feature-maps", [3, 32, 32], one(layer), seed=5)
pictures = np.random.default_rng(1).random((64, 3, 32, 32), dtype=np.float32)
maps = client.v2.infer("feature-maps", {"x": pictures})["output"]
print(maps.shape)
assert maps.shape == (64, 6, 30, 30)

# %% [markdown]
# ## L1. Losses with their reduction
#
# A version that answers its own input shows what a loss makes of numbers and targets.

# %%
for columns in (1, 3):
    made(f"identity-{columns}", [columns], one({"type": "Identity"}))


def loss(model, inputs, targets, **objective):
    dataset = {"type": "inline", "inputs": inputs, "targets": targets}
    job = client.jobs.submit({"kind": "evaluate", "model": model, "dataset": dataset, "objective": objective})
    return round(client.jobs.wait(job).metrics["last"]["loss"], 4)


numbers, targets = [[1], [2], [3]], [1, 2, 5]
found = {
    "L1Loss": loss("identity-1", numbers, targets, type="l1"),
    "L1Loss, sum": loss("identity-1", numbers, targets, type="l1", reduction="sum"),
    "MSELoss": loss("identity-1", numbers, targets, type="mse"),
    "CrossEntropyLoss": loss("identity-3", [[0.1, 0.2, 0.3]], [1], type="cross_entropy"),
}
print(found)
assert list(found.values()) == [0.6667, 2.0, 1.3333, 1.1019]

# %%
client.close()
