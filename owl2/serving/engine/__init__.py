"""The embedded engine: continuous batching of prompts with images, beyond what transformers' manager does."""
