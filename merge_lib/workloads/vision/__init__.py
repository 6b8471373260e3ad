"""Small images: a vision transformer pre-trained on rendered glyphs, fine-tuned on tasks of a few classes."""
