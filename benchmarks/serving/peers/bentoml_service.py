"""BentoML, as its documentation shows: numpy in, numpy out, one worker; adaptive batching on a route of its own."""

import bentoml
import nets
import numpy as np
import torch


@bentoml.service(workers=1, traffic={"timeout": 30})
class Net:
    """Rows to answers."""

    def __init__(self) -> None:
        self.net = nets.served()

    @bentoml.api
    def predict(self, x: np.ndarray) -> np.ndarray:
        """Answer the rows of one request."""
        with torch.inference_mode():
            return self.net(torch.from_numpy(x.astype(np.float32, copy=False))).numpy()

    @bentoml.api(batchable=True, batch_dim=0, max_batch_size=64, max_latency_ms=1000)
    def predict_batched(self, x: np.ndarray) -> np.ndarray:
        """Answer the rows of several requests."""
        with torch.inference_mode():
            return self.net(torch.from_numpy(x.astype(np.float32, copy=False))).numpy()
