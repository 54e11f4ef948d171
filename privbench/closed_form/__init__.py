"""Linear algebra of exact recovery: row spaces, moments, single tokens, likely patches, spectra, noise."""

from privbench.closed_form.noise import noise_std, rows_without_signal

__all__ = [
    "noise_std",
    "rows_without_signal",
]
