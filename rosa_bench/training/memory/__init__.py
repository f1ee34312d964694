"""Train in less memory: activations computed again, weights loaded layer by layer."""
