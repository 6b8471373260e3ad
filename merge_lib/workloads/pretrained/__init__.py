"""Real models of transformers, by name or folder, fine-tuned whole or by LoRA.

Importing this package loads neither torch nor transformers; its modules do.
"""
