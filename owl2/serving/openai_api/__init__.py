"""The OpenAI API over an engine."""
