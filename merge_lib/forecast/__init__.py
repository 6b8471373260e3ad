"""What a merge is expected to lose, before it is evaluated."""
