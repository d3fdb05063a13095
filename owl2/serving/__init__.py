"""Serving: an OpenAI-compatible server with an embedded engine over transformers' continuous batching."""
