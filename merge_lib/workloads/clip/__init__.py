"""CLIP models on image tasks whose classes have names: fine-tuning of both encoders, zero-shot heads."""
