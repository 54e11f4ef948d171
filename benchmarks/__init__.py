"""Speed and quality of the inversion engine against the plain method and against a public tool, measured side by side."""
