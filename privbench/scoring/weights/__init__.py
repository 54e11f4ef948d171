"""AlexNet's convolutional trunk for LPIPS, from torchvision; see README.md beside this file."""
