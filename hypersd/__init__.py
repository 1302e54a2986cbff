"""hypersd: turn a Stable Diffusion checkpoint into one that draws in 1 to 8 steps."""

__version__ = "0.1.0"
