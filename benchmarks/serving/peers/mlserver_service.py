"""MLServer: a runtime of our own in the server's process (`parallel_workers` 0), with or without adaptive batching.

Its settings and those of its models are files that the benchmark writes.
"""

import nets
import numpy as np
import torch
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Net(MLModel):
    """Tensors to tensors, by MLServer's own codec."""

    async def load(self) -> bool:
        """Load the net."""
        self.net = nets.served()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a request, or what the batcher has made of several."""
        x = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32, copy=False)
        with torch.inference_mode():
            y = self.net(torch.from_numpy(x)).numpy()
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)])
