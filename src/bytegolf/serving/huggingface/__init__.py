"""Models for the Hugging Face library: what it loads, made of this package's own modules."""
