"""Documents: what clients send and what the store keeps, as frozen pydantic models that never import torch."""
