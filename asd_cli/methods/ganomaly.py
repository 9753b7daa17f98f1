"""GANomaly (Akcay et al., "GANomaly: Semi-Supervised Anomaly Detection via Adversarial Training", ACCV 2018), dense.

An encoder squeezes every cell of 2^depth px into a few numbers, a decoder without skip connections rebuilds the image
from them, and a second encoder squeezes what was rebuilt; a discriminator tells images from rebuilt ones. The last two
serve the training alone and are no part of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits

from asd_cli.data.amplitudes import Amplitudes
from asd_cli.methods.base import TrainingBatch
from asd_cli.methods.recipe import Recipe
from asd_cli.methods.restoring import RestoringDetector, RestoringObjective, RestoringSettings, smoothed, trimmed
from asd_cli.methods.scaled import check_within
from asd_cli.nn.masked import inside, masked_mean, whole_cells
from asd_cli.nn.unet import SLOPE, ConvDecoder, ConvEncoder, Placed, initialise, unet_halo
from asd_cli.options import TrainOptions

ADVERSARIAL, CONTEXTUAL, ENCODER = 1.0, 50.0, 1.0
"""Weights of the generator's losses (the paper's Sec. 4)."""


@dataclass(frozen=True)
class GanomalySettings(RestoringSettings):
    """latent: numbers that the encoder leaves of a cell of 2^depth x 2^depth px."""

    latent: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_within(self, latent=(1, 512))


class LatentEncoder(nn.Module):
    """Images with halo to `latent` numbers for every cell of 2^depth px."""

    def __init__(self, bands: int, settings: GanomalySettings) -> None:
        super().__init__()
        self.levels = ConvEncoder(bands, width=settings.width, depth=settings.depth, convolutions=settings.convolutions)
        self.head = nn.Conv2d(self.levels.widths[-1], settings.latent, 1)

    def forward(self, x: Placed) -> Placed:
        """Pixels in place -> latent numbers (B, latent, h, w) in place; cell 0 begins at pixel 0."""
        deepest: Placed = self.levels(x)[-1]
        return Placed(self.head(deepest.values), deepest.start)


class Generator(nn.Module):
    """Encoder and decoder: (B, bands, H + 2 halo, W + 2 halo) -> the image rebuilt, (B, bands, H, W), and its cells."""

    def __init__(self, bands: int, settings: GanomalySettings) -> None:
        super().__init__()
        self.encoder = LatentEncoder(bands, settings)
        widths = self.encoder.levels.widths
        self.widen = nn.Sequential(nn.Conv2d(settings.latent, widths[-1], 1), nn.LeakyReLU(SLOPE, inplace=True))
        self.decoder = ConvDecoder(widths, bands, convolutions=settings.convolutions, skips=False)
        self.halo, self.align = unet_halo(settings.depth, settings.convolutions), 1 << settings.depth
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Placed]:
        """See the class."""
        height, width = (n - 2 * self.halo for n in x.shape[-2:])
        latent = self.encoder(Placed(x, -self.halo))
        rebuilt = self.decoder([Placed(self.widen(latent.values), latent.start)])
        return rebuilt.cut(height, width).float(), latent


class Discriminator(nn.Module):
    """Three strided convolutions without padding: features of windows of 15 px, every 8 px, and their logits."""

    window, stride = 15, 8

    def __init__(self, bands: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels_in, channels_out in ((bands, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(channels_in, channels_out, 3, stride=2), nn.LeakyReLU(SLOPE)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Conv2d(4 * width, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, bands, H, W) -> features (B, 4 width, h, w) and logits (B, h, w), > 0 for images that are no rebuilt."""
        features = self.features(x)
        return features.float(), self.head(features)[:, 0].float()


class GanomalyMethod(RestoringDetector):
    """Mean absolute difference of a pixel from the rebuilt one, over bands; on the network's range.

    The paper scores whole images, by the distance between the two latent vectors; a map needs a number for each pixel,
    and takes the contextual term.
    """

    name: ClassVar[str] = "ganomaly"
    settings_kind = GanomalySettings
    settings: GanomalySettings
    recipe = Recipe(
        crop=128,
        epochs=16,
        steps_per_epoch=25,
        warmup_epochs=0,
        learning_rate=5e-4,
        weight_decay=0.0,
        decay="cosine",
        jitter=True,
        review_pieces=8,
        scaling="robust",
        amplitudes=Amplitudes(),
    )

    def __init__(self, bands: int, settings: GanomalySettings) -> None:
        super().__init__(bands, settings)
        self.generator = Generator(bands, settings)
        self.halo, self.align = self.generator.halo + settings.smooth // 2, self.generator.align

    def objective(self, options: TrainOptions, *, warmup_epochs: int) -> GanomalyObjective:
        """The generator's three losses and that of the discriminator; their first weights follow the seed."""
        return GanomalyObjective(self, seed=options.seed)

    def distances(self, x: Tensor) -> Tensor:
        """See `Detector`."""
        x = self.normalise(x)
        margin = self.generator.halo
        error = (self.generator(x)[0] - trimmed(x, margin)).abs().mean(dim=1)
        return smoothed(error, self.settings.smooth)


class Players(nn.Module):
    """All networks of the training in one module, so that one optimizer moves them and one checkpoint keeps them."""

    def __init__(self, method: GanomalyMethod, *, seed: int) -> None:
        super().__init__()
        self.method = method
        with torch.device("meta"):  # no number of the process's random state is used up
            second = LatentEncoder(method.bands, method.settings)
            discriminator = Discriminator(method.bands, method.settings.width)
        self.second = second.to_empty(device="cpu")
        self.discriminator = discriminator.to_empty(device="cpu")
        random = torch.Generator().manual_seed(seed)
        initialise(self.second, random)
        initialise(self.discriminator, random)


class GanomalyObjective(RestoringObjective[GanomalyMethod]):
    """1 adversarial + 50 contextual + 1 encoder for the generator, and binary cross-entropy for the discriminator.

    Each term reaches only the networks that it is meant for: the adversarial one sees the discriminator's weights as
    constants, the discriminator's own the rebuilt image as one. So both sides take their step from the same sum.
    """

    short_names: ClassVar[Mapping[str, str]] = {
        "loss": "loss", "adversarial": "adv", "contextual": "con", "encoder": "enc", "discriminator": "disc",
        "held_out": "held-out error",
    }  # fmt: skip

    def __init__(self, method: GanomalyMethod, *, seed: int) -> None:
        super().__init__(method)
        self._players = Players(method, seed=seed)

    @property
    def module(self) -> nn.Module:
        """Generator, second encoder and discriminator."""
        return self._players

    def losses(self, batch: TrainingBatch, epoch: int) -> dict[str, Tensor]:
        """The four terms; cells and windows that hold a pixel that does not count are left out."""
        method, mask = self.method, batch.mask
        margin = method.generator.halo
        x = trimmed(method.normalise(batch.image), method.halo - margin)
        image = trimmed(x, margin)
        rebuilt, latent = method.generator(x)
        contextual = masked_mean((rebuilt - image).abs().mean(dim=1), mask)
        return {
            "contextual": CONTEXTUAL * contextual,
            "encoder": ENCODER * self._encoder_loss(x, rebuilt, latent, mask),
            **self._adversarial_losses(image, rebuilt, mask),
        }

    def _encoder_loss(self, x: Tensor, rebuilt: Tensor, latent: Placed, mask: Tensor) -> Tensor:
        """Mean squared difference between the cells of the image and those of the image with the rebuilt set in.

        The second encoder needs a halo, too: there, and where pixels do not count, it sees the image as it is.
        """
        generator = self.method.generator
        halo, align = generator.halo, generator.align
        cells = whole_cells(mask, align)
        inner = torch.where(mask[:, None], rebuilt, trimmed(x, halo))
        seen = x.clone()
        seen[..., halo : halo + inner.shape[-2], halo : halo + inner.shape[-1]] = inner
        again = self._players.second(Placed(seen, -halo))
        first, second = (p.cut(*cells.shape[-2:]).float() for p in (latent, again))
        return masked_mean((first - second).square().mean(dim=1), cells)

    def _adversarial_losses(self, image: Tensor, rebuilt: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Feature matching for the generator, and the discriminator's own loss; 0 for images smaller than a window."""
        discriminator = self._players.discriminator
        if min(mask.shape[-2:]) < discriminator.window:
            nothing = rebuilt.sum() * 0.0
            return {"adversarial": nothing, "discriminator": nothing}
        windows = inside(mask, discriminator.window)[..., :: discriminator.stride, :: discriminator.stride]
        constants = {name: value.detach() for name, value in discriminator.named_parameters()}
        features, logits = discriminator(image)
        matched, _ = functional_call(discriminator, constants, (rebuilt,))
        _, fake_logits = discriminator(rebuilt.detach())
        real = masked_mean(_entropy(logits, truth=1.0), windows)
        fake = masked_mean(_entropy(fake_logits, truth=0.0), windows)
        matching = masked_mean((matched - features.detach()).square().mean(dim=1), windows)
        return {"adversarial": ADVERSARIAL * matching, "discriminator": (real + fake) / 2}


def _entropy(logits: Tensor, *, truth: float) -> Tensor:
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth), reduction="none")
