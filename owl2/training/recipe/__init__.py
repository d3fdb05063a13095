"""Recipes: schema and files."""
