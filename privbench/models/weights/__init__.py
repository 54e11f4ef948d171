"""Embedded weights with their cards: half-precision safetensors made by `privbench train`."""
