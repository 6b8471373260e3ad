"""What keys the draws of one tensor and expert: read by the kernels as well as by torch's route; imports no torch."""

import xxhash

DRAWS = 2**32  # a draw is one of so many whole numbers


def draw_key(seed: int, expert: int, tensor: str) -> tuple[int, int]:
    """Key and stream: 64 and 63 bits of a hash, the key as a signed number."""
    digest = xxhash.xxh3_128_intdigest(f"{seed}\0{expert}\0{tensor}".encode())
    key = digest & (2**64 - 1)
    return key - 2**64 if key >= 2**63 else key, (digest >> 64) & (2**63 - 1)
