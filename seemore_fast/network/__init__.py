"""The network as such: the oracle in plain PyTorch, variants, checkpoints, weights, folding."""
