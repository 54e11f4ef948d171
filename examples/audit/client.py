"""A client that trains: five steps of SGD on one photo; the weights before and after are what its server has.

docs/tutorials/federated.md audits what it writes: `python examples/audit/client.py update/`.
"""

import sys
from pathlib import Path

import timm
import torch
from torch.nn.functional import cross_entropy
from torchvision.utils import save_image

from privbench.data import open_images

folder = Path(sys.argv[1])
(folder / "photos").mkdir(parents=True, exist_ok=True)
images, _ = open_images("photos").load([1], 224)  # [1, 3, 224, 224] in [0, 1]
save_image(images, folder / "photos" / "chelsea.png")

torch.manual_seed(0)
model = timm.create_model("vit_tiny_patch16_224", num_classes=10)
torch.save(model.state_dict(), folder / "w0.pth")
optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
for _ in range(5):
    optimiser.zero_grad()
    cross_entropy(model((images - 0.5) / 0.5), torch.tensor([3])).backward()
    optimiser.step()
torch.save(model.state_dict(), folder / "wT.pth")
