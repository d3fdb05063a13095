"""Adapters to other evaluation harnesses, importable without them: `lm_eval`, `lmms_eval`, `vlmevalkit`."""
