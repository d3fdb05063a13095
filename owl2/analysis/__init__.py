"""Looking inside the model."""
