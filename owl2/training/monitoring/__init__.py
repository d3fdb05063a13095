"""What a run reports, and what watches over it."""
