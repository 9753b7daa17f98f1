"""Training steps a second on the CPU, beside the published architecture in its plain dense form.

python benchmarks/training.py [--json FILE] [--rounds 5] [--threads N] [--sides 128,256]
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch is loaded

import torch
from common import arguments, median, ratios, save, seconds_of, show, spread
from published import HALO, PlainEncoder

from asd_cli.methods.asd.losses import compact_loss, diverse_loss, feature_rich_loss
from asd_cli.methods.asd.method import AsdMethod
from asd_cli.methods.base import TrainingBatch
from asd_cli.nn.devices import keep_freed_memory
from asd_cli.options import TrainOptions

LENGTH, RADIUS = 5, torch.tensor(3.0)


def batch(side: int) -> TrainingBatch:
    random = torch.Generator().manual_seed(0)
    shape = (1, 3, side + 2 * HALO, side + 2 * HALO)
    layout = torch.channels_last
    image, virtual = (torch.rand(shape, generator=random).contiguous(memory_format=layout) for _ in range(2))
    return TrainingBatch(image, virtual, torch.ones(1, side, side, dtype=torch.bool))


def ours(side: int):
    torch.manual_seed(0)
    method = AsdMethod.create(3, length=LENGTH, scales=(0.5, 1.0, 2.0), patch_size=15).train()
    method = method.to(memory_format=torch.channels_last)
    objective, data = method.objective(TrainOptions(), warmup_epochs=0), batch(side)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(objective.losses(data, 5).values())).sum().backward()
        optimizer.step()

    return step


def published(side: int):
    """Two forward passes, channels first."""
    torch.manual_seed(0)
    encoder, data = PlainEncoder().train(), batch(side)
    image, virtual = data.image.contiguous(), data.virtual.contiguous()
    center, mask = torch.zeros(LENGTH), data.mask
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        descriptors, reconstruction = encoder(image)
        transformed, _ = encoder(virtual)
        loss = compact_loss(descriptors, center, RADIUS, mask) + diverse_loss(descriptors, transformed, mask)
        inner = image[..., HALO:-HALO, HALO:-HALO]
        (loss + feature_rich_loss(inner, reconstruction, mask)).backward()
        optimizer.step()

    return step


def main() -> None:
    args = arguments(__doc__ or "", sides={"default": "128,256"})
    sides = [int(side) for side in args.sides.split(",")]
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as `asd train`; it helps both
    jobs = {f"{name} {side}": make(side) for side in sides for name, make in (("ours", ours), ("published", published))}
    taken = seconds_of(jobs, rounds=args.rounds)
    rows = [["one step, batch 1", "steps/s", "spread", "against published"]]
    results = {}
    for side in sides:
        for name in ("ours", "published"):
            speed = [1 / seconds for seconds in taken[f"{name} {side}"]]
            faster = median(ratios(taken[f"published {side}"], taken[f"{name} {side}"]))
            rows.append([f"{name}, {side} px", f"{median(speed):.2f}", spread(speed), f"{faster:.1f} x"])
            results[f"{name} {side}"] = {"steps_s": speed, "against_published": faster}
    show(f"{args.threads} threads", rows)
    save(args.json, args.threads, results)


if __name__ == "__main__":
    main()
