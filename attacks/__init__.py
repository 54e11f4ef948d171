"""Attacks, one file each; a new one is a file, a line here, and a card in README.md."""

BUILT_IN = {
    "gradvit": "privbench.attacks.gradvit:GradViT",
}
"""Registered name to `module:class`."""
