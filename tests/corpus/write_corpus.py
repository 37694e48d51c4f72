"""Writes real checkpoints with whichever torch runs it: `python write_corpus.py FOLDER [small|nets]`.

Runs under torch 1.13 of Debian and under today's, so it uses what both have, and nothing of this project. Beside each
NAME.pt it leaves NAME.json: what the writer knew of it, for the reader to be held to.
"""

import hashlib
import json
import sys
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import nn

warnings.simplefilter("ignore")


class ZBX(nn.Module):
    """The net that a tutorial pickles whole."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(64 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x):
        x = self.pool(torch.relu(self.conv1(x)))
        return self.head(x)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict({"up": nn.Linear(3, 5), "down": nn.Linear(5, 3)}) for _ in range(2)])
        self.scale = nn.Parameter(torch.ones(3) * 0.5)
        self.frozen = nn.Parameter(torch.arange(3.0), requires_grad=False)
        self.register_parameter("absent", None)
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("cache", torch.arange(4.0), persistent=False)
        self.names = ["a", "b"]
        self.options = {"rate": 0.1, "size": (2, 3), "kind": torch.float32, "device": torch.device("cpu")}
        self.act = nn.functional.relu

    def forward(self, x):
        for block in self.blocks:
            up, down = block.children()
            x = self.act(down(up(x)))
        return x * self.scale


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.embed.weight
        self.again = self.embed

    def forward(self, x):
        return self.out(self.embed(x))


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def get_extra_state(self):
        return {"seen": 3, "words": ("a", "b")}

    def set_extra_state(self, state):
        pass

    def forward(self, x):
        return self.layer(x)


def modules():
    """Name, module, input shape."""
    yield "sequential", nn.Sequential(nn.Linear(1, 10), nn.ReLU(), nn.Linear(10, 1)), (2, 1)
    yield "zbx", ZBX(), (1, 3, 8, 8)
    yield "nested", Nested(), (2, 3)
    norm = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm([4, 6, 6]))
    norm(torch.randn(4, 3, 8, 8))
    yield "batchnorm", norm, (2, 3, 8, 8)
    yield "lstm", nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True), (2, 5, 3)
    yield "gru", nn.GRU(3, 4), (5, 2, 3)
    yield "attention", nn.MultiheadAttention(8, 2, batch_first=True), None
    yield "encoder", nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2), (3, 2, 8)
    yield "weight_norm", nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4)), nn.Tanh()), (2, 3)
    yield "spectral_norm", nn.Sequential(nn.utils.spectral_norm(nn.Linear(3, 4))), (2, 3)
    yield "tied", Tied(), None
    yield "extra_state", Counted(), (2, 2)
    yield "parallel", nn.DataParallel(nn.Sequential(nn.Linear(2, 3))), (2, 2)
    yield "empty", nn.Sequential(), (2, 2)


def state_dicts():
    """Name, what is saved, and the tensors in it that are the weights."""
    types = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128]
    types += [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool]
    newer = ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"]
    types += [getattr(torch, name) for name in newer if hasattr(torch, name)]
    typed = OrderedDict((str(t).split(".")[1], (torch.arange(6).reshape(2, 3) % 2).to(t)) for t in types)
    yield "types", typed, typed
    base = torch.arange(24.0).reshape(4, 6)
    views = {
        "row": base[1],
        "column": base[:, 2],
        "turned": base.t(),
        "stepped": base[::2, 1::3],
        "whole": base,
        "same": base,
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        "one": torch.ones(1, 1, 5).transpose(0, 2),
    }
    yield "views", views, views
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    kept = net.state_dict(keep_vars=True)
    yield "parameters", kept, kept
    adam = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    adam.step()
    training = {
        "epoch": 3,
        "best": np.float64(0.25),
        "rates": np.arange(3.0),
        "model": net.state_dict(),
        "optimizer": adam.state_dict(),
        "args": {"lr": 0.1, "name": "run", "seed": 2**70, "nan": float("nan")},
    }
    yield "training", training, training["model"]
    wrapped = OrderedDict(("module." + name, tensor) for name, tensor in net.state_dict().items())
    yield "prefixed", {"state_dict": wrapped}, net.state_dict()
    inner = OrderedDict(("module._orig_mod.a._orig_mod." + name, t) for name, t in net.state_dict().items())
    yield "compiled", inner, OrderedDict(("a." + name, t) for name, t in net.state_dict().items())


def described(tensors):
    return [
        [name, str(tensor.dtype).split(".")[1], list(tensor.shape), digest(tensor)] for name, tensor in tensors.items()
    ]


def digest(tensor):
    flat = tensor.detach().contiguous().reshape(-1)
    if not flat.numel():
        return hashlib.sha256(b"").hexdigest()
    if flat.dtype == torch.bfloat16 or "float8" in str(flat.dtype):
        flat = flat.view(torch.int16 if flat.element_size() == 2 else torch.int8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def write(folder, name, value, weights, formats=("zip", "old"), **more):
    more = {"torch": torch.__version__, "weights": described(weights), **more}
    for suffix in formats:
        path = folder / (name + "." + suffix + ".pt")
        torch.save(value, path, _use_new_zipfile_serialization=suffix == "zip")
        (folder / (name + "." + suffix + ".json")).write_text(json.dumps(more))


def main(folder, which):
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    if which == "nets":
        nets(folder)
        return
    for name, module, shape in modules():
        module.eval()
        tree = [[path, type(m).__module__ + "." + type(m).__name__] for path, m in module.named_modules()]
        state = module.state_dict()
        weights = OrderedDict((key, value) for key, value in state.items() if isinstance(value, torch.Tensor))
        output = None
        if shape is not None:
            found = module(ramp(shape))
            found = found[0] if isinstance(found, tuple) else found
            output = found.detach().reshape(-1).tolist()
        write(folder, name, module, weights, tree=tree, input=shape, output=output)
        if weights:
            write(folder, name + "_state", state, weights, output=output)
    for name, value, weights in state_dicts():
        write(folder, name, value, weights)
    state = nn.Linear(2, 3).state_dict()
    torch.save(state, folder / "protocol4.zip.pt", pickle_protocol=4)
    (folder / "protocol4.zip.json").write_text(json.dumps({"torch": torch.__version__, "weights": described(state)}))


def ramp(shape):
    """An input that every program can make for itself."""
    count = int(np.prod(shape))
    return ((torch.arange(count) % 251).float() / 251 - 0.5).reshape(shape)


def nets(folder):
    """Nets of torchvision, whole and as state_dicts, with what they answer."""
    import torchvision  # type: ignore[import-not-found,unused-ignore] # Debian's

    for name, formats in (("alexnet", ["old"]), ("resnet18", ["zip", "old"]), ("vgg16", ["zip"])):
        net = getattr(torchvision.models, name)().eval()
        shape = (1, 3, 224, 224)
        with torch.no_grad():
            output = net(ramp(shape)).reshape(-1).tolist()
        tree = [[path, type(m).__module__ + "." + type(m).__name__] for path, m in net.named_modules()]
        state = net.state_dict()
        write(folder, name, net, state, formats, tree=tree, input=shape, output=output)
        if name == "resnet18":
            write(folder, name + "_state", state, state, formats, input=shape, output=output)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "small")
