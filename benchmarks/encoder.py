"""Forward only: pixels to distances on the CPU, engine by engine.

python benchmarks/encoder.py [--json FILE] [--rounds 5] [--threads N] [--compile]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import arguments, median, on_threads, ratios, save, seconds_of, show, spread
from numpy.typing import NDArray
from published import HALO, PlainEncoder
from torch import Tensor, nn

from asd_cli.methods.asd.folded import FoldedEncoder
from asd_cli.methods.asd.method import AsdMethod
from asd_cli.methods.base import EvidenceDetector
from asd_cli.nn.engines import Engine, OnnxEngine
from asd_cli.nn.pyramid import PatchNetwork
from asd_cli.options import TrainOptions

BANDS, LENGTH, SIDE = 3, 5, 128
FLOP_A_PIXEL = 47_200  # 23.6 k multiply-adds at 3 bands: 8.2 k in each full-rate 2 x 2 convolution, see asd-method.md
CALLS = 8  # blocks on each thread in one turn
DEFAULT = "default recipe, ONNX Runtime (used)"
Job = Callable[[], Any]


def naive(folded: FoldedEncoder, image: Tensor, side: int) -> Tensor:
    """Patch by patch, as Fig. 2 of the paper draws it: cut every pixel's patch at every scale, run the network."""
    out = folded.offset[:, :, 0, 0]
    for branch, exponent in zip(folded.pyramid.branches, folded.pyramid.exponents, strict=True):
        assert isinstance(branch, PatchNetwork)
        scaled = F.interpolate(image, scale_factor=2.0**exponent, mode="nearest")
        place = [int((HALO + i) * 2.0**exponent) - branch.before for i in range(side)]
        patches = torch.cat([scaled[..., r : r + 14, c : c + 14] for r in place for c in place])
        x = F.max_pool2d(F.relu(branch.conv1(patches)), 2)
        x = F.max_pool2d(F.relu(branch.conv2(x)), 2)
        out = out + branch.conv4(F.relu(branch.conv3(x)))[:, :, 0, 0]
    return out.norm(dim=1)


class Products:
    """The 2 x 2 convolution as a product [pixels, 64] x [64, 128] by BLAS, with ReLU and 128 -> L strip by strip."""

    def __init__(self, folded: FoldedEncoder, rows: int = 8) -> None:
        self._folded, self._rows = folded, rows
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        folded = self._folded
        x = ((x - folded.low) * folded.slope - 1).clamp(-3, 3).contiguous(memory_format=torch.channels_last)
        total = folded.offset.flatten()
        side = x.shape[-1] - 2 * HALO
        for branch, exponent in zip(folded.pyramid.branches, folded.pyramid.exponents, strict=True):
            total = total + self._branch(branch, exponent, x, side)
        return total.norm(dim=-1)

    def _branch(self, branch: nn.Module, exponent: int, x: Tensor, side: int) -> Tensor:
        assert isinstance(branch, PatchNetwork)
        if exponent < 0:
            rows = side // 2
            x = x[..., ::2, ::2][..., 1 : rows + 14, 1 : rows + 14]
        elif exponent == 0:
            rows, x = side, x[..., HALO - 7 : HALO + side + 6, HALO - 7 : HALO + side + 6]
        else:
            rows = side
            x = F.interpolate(x[..., HALO - 4 : HALO + side + 3, HALO - 4 : HALO + side + 3], scale_factor=2)
            x = x[..., 1:, 1:]
        first = 2 if exponent > 0 else 1
        x = F.max_pool2d(F.relu_(branch.conv1(x)), 2, stride=first)
        dilation = 1 if exponent > 0 else 2
        x = F.relu_(F.conv2d(x, branch.conv2.weight, branch.conv2.bias, dilation=dilation))
        x = F.max_pool2d(x, 2, stride=1, dilation=dilation)
        x = x.contiguous(memory_format=torch.channels_last)
        out = self._product(branch, x.permute(0, 2, 3, 1)[0], rows, 2 * dilation)
        if exponent < 0:
            out = out.repeat_interleave(2, 0).repeat_interleave(2, 1)
        return out

    def _product(self, branch: PatchNetwork, x: Tensor, side: int, step: int) -> Tensor:
        weight = branch.conv3.weight.permute(2, 3, 1, 0).reshape(64, 128)
        last = branch.conv4.weight[:, :, 0, 0]
        if side not in self._buffers:
            self._buffers[side] = torch.empty(self._rows, side, 2, 2, 16), torch.empty(self._rows * side, 128)
        patches, hidden = self._buffers[side]
        out = torch.empty(len(last), side * side)
        down, right, _ = x.stride()
        for top in range(0, side, self._rows):
            strides = (down, right, step * down, step * right, 1)
            patches.copy_(torch.as_strided(x, patches.shape, strides, x.storage_offset() + top * down))
            torch.addmm(branch.conv3.bias, patches.view(-1, 64), weight, out=hidden).relu_()
            torch.mm(last, hidden.t(), out=out[:, top * side : (top + self._rows) * side])
        return out.T.reshape(side, side, -1)


def default_engine() -> tuple[Engine, NDArray[np.float32]]:
    """Engine of a model as `asd train` makes it by default, and a block for it."""
    plan = AsdMethod.plan(TrainOptions())
    made = AsdMethod.create(BANDS, **plan.config).eval().requires_grad_(False)
    assert isinstance(made, EvidenceDetector)
    random = np.random.default_rng(0)
    made.set_evidence([random.gamma(2.0, 1.0, (5000, made.signs)).astype(np.float32)])
    side = made.block_side(torch.device("cpu"))
    around = side + 2 * made.halo
    block = random.uniform(0, 1, (1, BANDS, around, around)).astype(np.float32)
    return made.distance_engine(torch.device("cpu"), side), block


def model() -> AsdMethod:
    torch.manual_seed(0)
    made = AsdMethod.create(BANDS, length=LENGTH, scales=(0.5, 1.0, 2.0), patch_size=15).eval()
    made.low.fill_(-1.0)
    return made.requires_grad_(False)


def alone(call: Job) -> Callable[[], Job]:
    """For a thread of its own: torch computes on that thread only."""

    def make() -> Job:
        def job() -> None:
            torch.set_num_threads(1)
            with torch.inference_mode():
                call()

        return job

    return make


def products_alone(folded: FoldedEncoder, tensor: Tensor) -> Job:
    """Each thread with buffers of its own."""
    return alone(partial(Products(folded), tensor))()


def engines(made: AsdMethod, block: NDArray[np.float32], *, compiled: bool) -> dict[str, Callable[[], Job]]:
    """What maps one block, by name; each is run on all threads at once."""
    folded = made.folded()
    last: Any = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tensor = torch.from_numpy(block).contiguous(memory_format=torch.channels_last)
    session = OnnxEngine(folded.session(SIDE, distances=True), SIDE)
    engine, of_default = default_engine()
    found: dict[str, Callable[[], Job]] = {
        "torch, unfolded": alone(lambda: made.distances(tensor)),
        "torch, folded": alone(lambda: last.distances(tensor)),
        "BLAS products": partial(products_alone, last, tensor),
        "ONNX Runtime (used)": lambda: lambda: session(block),
        DEFAULT: lambda: lambda: engine(of_default),
    }
    if compiled:
        fast = torch.compile(last.distances)
        with torch.inference_mode():
            fast(tensor)
        found["torch.compile"] = alone(lambda: fast(tensor))
    return found


def main() -> None:
    args = arguments(__doc__ or "", compile={"action": "store_true", "help": "torch.compile, too (needs a compiler)"})
    threads = args.threads
    torch.set_num_threads(threads)
    made = model()
    random = np.random.default_rng(0)
    block = random.uniform(-1, 1, (1, BANDS, SIDE + 2 * HALO, SIDE + 2 * HALO)).astype(np.float32)
    plain, image = PlainEncoder().eval(), torch.rand(1, BANDS, 512 + 2 * HALO, 512 + 2 * HALO)
    patches = torch.from_numpy(block[..., : 16 + 2 * HALO, : 16 + 2 * HALO].copy())
    matrix = torch.rand(1024, 1024)

    def published() -> None:
        plain.distances(image, torch.zeros(LENGTH), torch.eye(LENGTH))

    with torch.inference_mode():
        reference = made.distances(torch.from_numpy(block))
        check = (Products(made.folded())(torch.from_numpy(block)) - reference[0]).abs().max()
        check = max(check, (naive(made.folded(), patches, 16).view(16, 16) - reference[0, :16, :16]).abs().max())
    assert check < 1e-4, f"the engines disagree by {check}"
    jobs: dict[str, tuple[int, Job]] = {}
    torch_jobs = {"matrix product": lambda: torch.mm(matrix, matrix), "published form": published}
    torch_jobs["patch by patch"] = lambda: naive(made.folded(), patches, 16)
    work = {"matrix product": 0, "published form": 512 * 512, "patch by patch": 16 * 16}
    for name, call in torch_jobs.items():
        jobs[name] = work[name], inferring(call, threads)
    for name, make in engines(made, block, compiled=args.compile).items():
        jobs[name] = threads * CALLS * SIDE * SIDE, on_threads(make, threads, CALLS)
    taken = seconds_of({name: job for name, (_, job) in jobs.items()}, rounds=args.rounds)
    report(args, jobs, taken)


def inferring(call: Job, threads: int) -> Job:
    def job() -> None:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            call()

    return job


def report(args: Any, jobs: dict[str, tuple[int, Job]], taken: dict[str, list[float]]) -> None:
    peak = [2 * 1024**3 / seconds / 1e9 for seconds in taken["matrix product"]]
    rows = [["forward only", "Mpx/s", "spread", "against published", "of matrix peak"]]
    results: dict[str, Any] = {"matrix_gflops": median(peak)}
    base = [512 * 512 / seconds / 1e6 for seconds in taken["published form"]]
    for name, (pixels, _) in jobs.items():
        if not pixels:
            continue
        speed = [pixels / seconds / 1e6 for seconds in taken[name]]
        faster = median(ratios(speed, base))
        share = median(ratios([s * FLOP_A_PIXEL / 1e3 for s in speed], peak))
        of_peak = "" if name == DEFAULT else f"{share:.0%}"  # its products are others
        rows.append([name, f"{median(speed):.3f}", spread(speed), f"{faster:.1f} x", of_peak])
        results[name] = {"mpx_s": speed, "against_published": faster, "of_matrix_peak": share}
    show(f"{args.threads} threads; matrix product {median(peak):.0f} GFLOP/s ({spread(peak)})", rows)
    save(args.json, args.threads, results)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
