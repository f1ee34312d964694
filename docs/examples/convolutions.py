"""LoRA and ROSA in convolutions: a small ResNet moves from the digits 0 to 4 to the digits 5 to 9.

    python docs/examples/convolutions.py

Downloads nothing: the images are scikit-learn's embedded digits, 8 x 8. Each convolution counts as the matrix that it
applies to a patch, out x (channels x kernel size). All methods train the new classifier too. One learning rate and one
seed, so this shows how it is done, not which method is better.
"""

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import rosa_bench

EPOCHS, BATCH, WIDTH = 8, 32, 16
METHODS: dict[str, dict[str, Any]] = {
    "head_only": {},
    "lora": {"rank": 2, "targets": r"conv\d"},
    "rosa": {"rank": 2, "targets": r"conv\d", "resample_every": 20, "resample_unit": "steps"},
    "ft": {},
}


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride=stride)
        self.norm1, self.norm2 = nn.GroupNorm(4, channels_out), nn.GroupNorm(4, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, channels_in, height, width) -> (rows, channels_out, height / stride, width / stride)."""
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Three blocks and a classifier of five digits."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(1, WIDTH, 1), Block(WIDTH, 2 * WIDTH, 2), Block(2 * WIDTH, 2 * WIDTH, 2))
        self.classifier = nn.Linear(2 * WIDTH, 5)

    def forward(self, images: Tensor) -> Tensor:
        """(rows, 1, 8, 8) -> logits, (rows, 5)."""
        return self.classifier(self.blocks(images).mean((-2, -1)))


def digits(first: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images and labels of five digits, for training and for testing: the last third."""
    images, labels = (torch.as_tensor(each) for each in load_digits(return_X_y=True))
    chosen = (labels >= first) & (labels < first + 5)
    images, labels = images[chosen].float().view(-1, 1, 8, 8) / 16, labels[chosen] - first
    train = len(labels) * 2 // 3
    return images[:train], labels[:train], images[train:], labels[train:]


def train(attached: rosa_bench.Attached, images: Tensor, labels: Tensor, lr: float) -> None:
    """An ordinary training loop, with one line more."""
    optimizer = attached.optimizer(lr=lr, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    step = 0
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels), generator=generator).split(BATCH):
            attached.before_step(step, optimizer)
            functional.cross_entropy(attached.model(images[rows]), labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of images whose digit is found."""
    with torch.no_grad():
        return (model(images).argmax(-1) == labels).double().mean().item()


def main() -> None:
    """Train on one half of the digits, then move to the other by each method, and print one row for each."""
    torch.manual_seed(0)
    first = rosa_bench.attach(ResNet(), "ft")
    images, labels, test_images, test_labels = digits(0)
    train(first, images, labels, lr=3e-3)
    start = first.merge().state_dict()
    print(f"digits 0 to 4, all weights: {100 * accuracy(first.model, test_images, test_labels):.1f} %")

    images, labels, test_images, test_labels = digits(5)
    for name, settings in METHODS.items():
        model = ResNet()
        model.load_state_dict(start)
        torch.manual_seed(1)
        model.classifier.reset_parameters()
        attached = rosa_bench.attach(model, name, head="classifier", **settings)
        trained = sum(parameter.numel() for parameter in attached.trainable_parameters)
        train(attached, images, labels, lr=3e-3)
        with torch.no_grad():
            before = model(test_images)
        merged = attached.merge()
        with torch.no_grad():
            difference = (merged(test_images) - before).abs().max().item()
        assert difference < 1e-4 and type(model.blocks[0].conv1) is nn.Conv2d
        score = 100 * accuracy(merged, test_images, test_labels)
        print(f"digits 5 to 9, {name:<10}{trained:>7,} parameters: {score:.1f} %; merging changes {difference:.0e}")


if __name__ == "__main__":
    main()
