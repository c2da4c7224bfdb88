"""bytegolf: train a small language model under a budget of bytes and seconds, compress it into one file, prove its score."""

__version__ = "0.1.0"
