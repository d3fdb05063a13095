"""What a recipe costs: operations, memory, hours."""
