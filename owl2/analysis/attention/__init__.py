"""Where a model looks (paper, section 4.4)."""
