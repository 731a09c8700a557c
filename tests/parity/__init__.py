"""Real models beside their reference, which is transformers with torch."""
