"""privbench: how much of a private image a vision transformer's gradient gives away, and what each defense is worth."""

__version__ = "0.1.0"
