"""Defenses, one file each; a new one is a file, a line here, and a card in cards/."""

BUILT_IN = {
    "none": "privbench.defenses.none:NoDefense",
    "no-pe": "privbench.defenses.no_pe:NoPositionEmbedding",
    "naive-shuffle": "privbench.defenses.naive_shuffle:NaiveShuffle",
    "mjp": "privbench.defenses.mjp:MaskedJigsawPuzzle",
    "clipping": "privbench.defenses.clipping:GradientClipping",
    "gradient-noise": "privbench.defenses.gradient_noise:GradientNoise",
    "dpsgd": "privbench.defenses.dpsgd:DPSGD",
    "pruning": "privbench.defenses.pruning:GradientPruning",
    "quantization": "privbench.defenses.quantization:GradientQuantization",
    "sign": "privbench.defenses.sign:GradientSign",
    "pixel-shuffle": "privbench.defenses.pixel_shuffle:PixelShuffle",
    "stochastic-layers": "privbench.defenses.stochastic_layers:StochasticLayers",
    "soteria": "privbench.defenses.soteria:Soteria",
    "precode": "privbench.defenses.precode:Precode",
    "mixup": "privbench.defenses.mixup:Mixup",
    "instahide": "privbench.defenses.instahide:InstaHide",
    "nog": "privbench.defenses.nog:NearestOrthogonalGradient",
}
"""Registered name to `module:class`."""
