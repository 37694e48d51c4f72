"""Documents and tensors: building, data, training, evaluation, weights. Knows no store, no queue, no HTTP."""
