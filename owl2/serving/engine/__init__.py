"""The embedded engine: continuous batching of prompts with images, and what the manager of transformers lacks."""
