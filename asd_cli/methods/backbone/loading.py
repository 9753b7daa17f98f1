"""Building a network of timm and loading weights into it, for any number of bands."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asd_cli.errors import InputError

STRIDES = (4, 8, 16)
"""Of the stages whose features are used."""
_STAGES = (1, 2, 3)
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PLAIN = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
_INSTALL = "install it with: pip install 'asd-cli[backbones]'"


def check_weights(weights: str) -> dict[str, Any]:
    """What the model file says of the weights that a user asked for; cheap, no weight is loaded.

    Raises:
        InputError: none were asked for, or there is no such file.
    """
    if not weights:
        raise InputError(
            "--option weights: the backbone needs weights; give weights=FILE (.safetensors or .pth, of timm or "
            "torchvision) or weights=pretrained, which timm downloads"
        )
    if weights in ("pretrained", "random"):
        return {"backbone_weights": weights}
    path = Path(weights)
    if not path.is_file():
        raise InputError(f"--option weights={weights}: no such file; or pretrained, or random (for tests only)")
    return {"backbone_weights": path.name, "backbone_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def build(name: str, bands: int, weights: str = "random") -> nn.Module:
    """A network of timm that maps (B, bands, H, W) to a list of features at strides 4, 8 and 16.

    weights: a file, ``pretrained`` (timm's, downloaded) or ``random``: drawn from torch's random state.

    Raises:
        InputError: timm is missing or broken, it has no such network, or the weights do not fit.
    """
    if weights == "random":
        return _created(name, bands)
    state = _pretrained(name) if weights == "pretrained" else _read(Path(weights))
    network = _created(name, bands)
    load_weights(network, state, weights)
    return network


def import_timm() -> Any:
    """The module timm.

    Raises:
        InputError: it is not installed, or cannot be imported; the text says what to do.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name == "timm":
            raise InputError(f"the backbone needs timm, which is not installed; {_INSTALL}") from error
        raise InputError(f"the backbone needs timm, which needs {error.name}; {_INSTALL}") from error
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        # a torchvision built for CUDA beside a torch for the CPU ends in any of these
        said = str(error).partition("\n")[0]
        raise InputError(
            f"the backbone needs timm, which cannot be imported ({said}); install torch and torchvision from the same "
            "index, both for the CPU or both for CUDA"
        ) from error
    return timm


def _pretrained(name: str) -> dict[str, Tensor]:
    _created(name, 3)  # says what is wrong with the name before anything is downloaded
    try:
        network: nn.Module = _features_of(name, 3, pretrained=True)
    except Exception as error:  # whatever its download library raises
        said = str(error).partition("\n")[0]
        raise InputError(
            f"--option weights=pretrained: timm cannot get those of {name} ({said}); get the file yourself and give "
            "weights=FILE"
        ) from error
    return network.state_dict()


def _features_of(name: str, bands: int, *, pretrained: bool) -> nn.Module:
    network: nn.Module = import_timm().create_model(
        name, features_only=True, out_indices=_STAGES, in_chans=bands, pretrained=pretrained
    )
    return network


def _created(name: str, bands: int) -> nn.Module:
    # a name may come from a model file, and one such as hf-hub:... would have timm fetch what it says
    if not (isinstance(name, str) and _PLAIN.fullmatch(name)):
        raise InputError(f"--option backbone={name}: is no plain name of a network of timm; an example: resnet18")
    import_timm()  # its own errors must not be taken for those of the name
    try:
        network = _features_of(name, bands, pretrained=False)
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, OSError, ImportError) as error:
        said = str(error).partition("\n")[0]
        raise InputError(f"--option backbone={name}: timm cannot make it ({said}); an example: resnet18") from error
    strides = tuple(_info(network).reduction())
    if strides != STRIDES:
        raise InputError(
            f"--option backbone={name}: its stages have strides {strides}, not {STRIDES}; take a ResNet or its kin"
        )
    return network.eval().requires_grad_(False)


def channels(network: nn.Module) -> tuple[int, ...]:
    """Channels of the features at each stride."""
    return tuple(int(count) for count in _info(network).channels())


def normalisation(network: nn.Module) -> tuple[float, float]:
    """Mean and standard deviation, of all bands alike, that values on 0..1 are normalised by for the network's weights:
    what timm says of them, else those of ImageNet's photographs."""
    said: Mapping[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    mean, spread = (said.get(name) or value for name, value in (("mean", _MEAN), ("std", _SPREAD)))
    return sum(mean) / len(mean), sum(spread) / len(spread)


def _info(network: nn.Module) -> Any:
    return network.feature_info


def load_weights(network: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load what a network needs from a state that may hold more; the first convolution is fitted to the bands.

    Raises:
        InputError: something is missing or has another shape.
    """
    wanted, first = network.state_dict(), _first_convolution(network)
    chosen: dict[str, Tensor] = {}
    for key, tensor in wanted.items():
        if key not in state and key.endswith("num_batches_tracked"):  # older files lack it; nothing depends on it
            chosen[key] = tensor
            continue
        if key not in state:
            raise InputError(f"--option weights={origin}: has no tensor {key}; are they of this backbone?")
        found = state[key]
        if key == first and found.ndim == 4 and found.shape[1] != tensor.shape[1]:
            found = for_bands(found, tensor.shape[1])
        if found.shape != tensor.shape:
            raise InputError(
                f"--option weights={origin}: tensor {key} is {list(found.shape)}, this backbone has "
                f"{list(tensor.shape)}"
            )
        chosen[key] = found
    network.load_state_dict(chosen)


def for_bands(weight: Tensor, bands: int) -> Tensor:
    """First convolution (O, I, k, k) for another number of bands: the mean over I for each, scaled by I / bands so
    that bands alike give what they gave."""
    count = weight.shape[1]
    return weight.mean(dim=1, keepdim=True).expand(-1, bands, -1, -1) * (count / bands)


def _first_convolution(network: nn.Module) -> str:
    names = (name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    return f"{next(names, '')}.weight"


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors of a file; no code in it is run.

    Raises:
        InputError: the file cannot be read or holds something else.
    """
    try:
        state = _read_safetensors(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # a file that is no pickle ends in whatever its bytes happen to say
        said = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"--option weights={path}: cannot be read as weights ({said})") from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not (isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values())):
        raise InputError(f"--option weights={path}: holds no plain tensors by name; save the network's state_dict")
    return dict(state)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found: dict[str, Tensor] = load(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return found
