"""Data: sources of image-text pairs and conversations, and their encoding for the model."""
