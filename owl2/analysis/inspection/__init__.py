"""What the modality-adaptive module does inside a trained model: one measure, one figure and one table a file."""
