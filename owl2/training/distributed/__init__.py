"""The model and its gradients over several ranks."""
