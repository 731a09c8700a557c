"""rlft: what SFT and RL do to a language model, and what an edit restores."""
__version__ = '0.1.0'
