"""Hugging Face directories in and out: config, names, weights."""
