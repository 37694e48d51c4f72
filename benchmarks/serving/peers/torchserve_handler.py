"""TorchServe: a handler on its BaseHandler, which is given a list of requests: one, or as many as `batch_size` says.

The model archive holds it, the nets and their weights.
"""

from pathlib import Path
from typing import Any

import nets
import numpy as np
import torch
from ts.torch_handler.base_handler import BaseHandler


class Net(BaseHandler):  # type: ignore[misc]  # has no types
    """One row a request, as JSON or as the bytes of a float32 array."""

    def initialize(self, context: Any) -> None:
        """Load the net."""
        [self.file] = Path(context.system_properties["model_dir"]).glob("*.safetensors")
        self.net = nets.load(self.file)
        self.initialized = True

    def preprocess(self, data: list[dict[str, Any]]) -> torch.Tensor:
        """The rows of a batch."""
        bodies = [each.get("body") or each.get("data") for each in data]
        shape = nets.SHAPES[self.file.stem]
        rows = [
            np.frombuffer(each, np.float32).reshape(shape)
            if isinstance(each, (bytes, bytearray))
            else np.array(each["x"], np.float32)
            for each in bodies
        ]
        return torch.from_numpy(np.stack(rows))

    def inference(self, data: torch.Tensor) -> torch.Tensor:
        """Answer them."""
        with torch.inference_mode():
            return self.net(data)

    def postprocess(self, inference_output: torch.Tensor) -> list[dict[str, list[float]]]:
        """One answer for each request."""
        return [{"y": row} for row in inference_output.tolist()]
