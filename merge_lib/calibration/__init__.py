"""What data-dependent methods need of data: features, Gram matrices and Fisher information, collected once."""
