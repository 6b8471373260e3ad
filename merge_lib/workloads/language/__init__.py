"""Text: causal and sequence-to-sequence models of transformers, fine-tuned on tasks of prompts and answers."""
