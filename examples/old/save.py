"""How the files of this folder were made, once; the examples need none of this. Run in this folder.

`net.pth` is a whole net, whose class exists nowhere any more; `state.pth` are its weights, saved on a GPU.
"""

import json
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional


class ZBX(nn.Module):
    """A net of one's own, as tutorials write it."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(2, 8)
        self.predict = nn.Linear(8, 3)

    def forward(self, x):
        """[B, 2] to [B, 3]."""
        return self.predict(functional.relu(self.hidden(x)))


torch.manual_seed(1)
net = ZBX().eval()
torch.save(net, "net.pth")
with patch("torch.serialization.location_tag", return_value="cuda:0"):  # what a GPU's tensors have in the file
    torch.save(net.state_dict(), "state.pth")
rows = torch.tensor([[0.5, -1.0], [2.0, 0.25]])
with torch.no_grad():
    answers = net(rows).tolist()
Path("answers.json").write_text(json.dumps({"inputs": rows.tolist(), "outputs": answers}) + "\n")
