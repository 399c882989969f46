"""Train the digits network and write it as digits.onnx. Deterministic; about ten seconds on one core.

Run: python examples/digits/train.py [output.onnx]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

HERE = Path(__file__).resolve().parent
SEED = 0
EPOCHS = 80
BATCH = 64
#: Standard deviation of the pixel noise and largest shift in pixels, drawn anew for every image.
NOISE, SHIFT = 0.05, 1


def network() -> nn.Sequential:
    """Input (N, 1, 8, 8), pixel / 255; output logits (N, 10). About 84,000 MACs.

    BatchNormalization stands once before and once after the ReLU, the two places deployq folds it from.
    """
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(32),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(128, 10),
    )


def augment(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift each image (N, 1, 8, 8) by up to SHIFT pixels and add noise."""
    padded = nn.functional.pad(pixels, [SHIFT] * 4)
    offsets = torch.randint(0, 2 * SHIFT + 1, (len(pixels), 2), generator=generator).tolist()
    shifted = torch.stack(
        [image[:, y : y + 8, x : x + 8] for image, (y, x) in zip(padded, offsets, strict=True)]
    )
    return shifted + NOISE * torch.randn(shifted.shape, generator=generator)


def train(pixels: torch.Tensor, labels: torch.Tensor) -> nn.Sequential:
    """Train on float pixels (N, 1, 8, 8) in 0..1 and labels (N,)."""
    torch.set_num_threads(1)  # so small a network is faster so, and sums keep their order
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    generator = torch.Generator().manual_seed(SEED)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
    steps = EPOCHS * (len(pixels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(pixels), generator=generator)
        for chosen in order[: len(order) // BATCH * BATCH].split(BATCH):
            logits = model(augment(pixels[chosen], generator))
            loss = nn.functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def accuracy(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    """Top-1 accuracy in percent."""
    with torch.no_grad():
        return 100.0 * float((model(pixels).argmax(1) == labels).float().mean())


def export(model: nn.Module, path: Path) -> None:
    """Write the float network as ONNX, BatchNormalization left for deployq to fold."""
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 1, 8, 8),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["image"],
        output_names=["logits"],
        external_data=False,
        optimize=False,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    for item in (proto, proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.value_info):
        item.ClearField("metadata_props")  # stack traces with paths of this machine
    onnx.save(proto, path)


def main() -> None:
    """Train on the training part of digits.npz, report the test accuracy, write the ONNX file."""
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "digits.onnx"
    with np.load(HERE / "digits.npz") as data:
        arrays = {name: torch.from_numpy(data[name]) for name in data.files}
    model = train(arrays["x_train"] / 255, arrays["y_train"].long())
    percent = accuracy(model, arrays["x_test"] / 255, arrays["y_test"].long())
    export(model, output)
    print(f"{output}: {output.stat().st_size} bytes, test accuracy {percent:.2f} %")


if __name__ == "__main__":
    main()
