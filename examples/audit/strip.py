"""Pictures side by side in one JPEG: python examples/audit/strip.py A.png B.png ... OUT.jpg."""

import sys

from PIL import Image

*files, out = sys.argv[1:]
pictures = [Image.open(file).convert("RGB") for file in files]
gap = 8
strip = Image.new("RGB", (sum(one.width + gap for one in pictures) - gap, pictures[0].height), "white")
for number, one in enumerate(pictures):
    strip.paste(one, (number * (one.width + gap), 0))
strip.save(out, quality=85)
