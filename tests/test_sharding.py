"""Weights that FSDP shares out: which recipes refuse it, and a model that is whole again."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import integrations

from hf_inspect.errors import DataError
from hf_inspect.training.sharding import refuse_shared, whole_again
from hf_inspect.vlm.ground_trainer import GroundTrainer


def trainer(**given):
    return SimpleNamespace(**{"is_fsdp_enabled": True, "args": SimpleNamespace(device="cpu"), **given})


def test_recipes_that_need_their_weights_whole_refuse_fsdp_and_zero3(monkeypatch):
    refuse_shared(trainer(is_fsdp_enabled=False))
    refuse_shared(trainer(shares_weights=GroundTrainer.shares_weights))
    with pytest.raises(DataError, match=r"FSDP shares out weights .*/zero2\.yaml"):
        refuse_shared(trainer())
    monkeypatch.setattr(integrations, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(DataError, match="ZeRO-3"):
        refuse_shared(trainer(is_fsdp_enabled=False))


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def layers():
    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))


def test_what_was_shared_out_is_whole_again_with_what_it_learned(one_process):
    torch.manual_seed(0)
    model = layers()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fully_shard(model)
    model(torch.ones(1, 4)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    assert all(isinstance(value, DTensor) for value in model.parameters())
    every = StateDictOptions(full_state_dict=True, cpu_offload=True)
    given = {
        "model": model, "model_wrapped": model,
        "accelerator": SimpleNamespace(get_state_dict=lambda shared: get_model_state_dict(shared, options=every)),
    }  # fmt: skip
    whole = whole_again(trainer(**given, is_world_process_zero=lambda: True), layers)
    assert not any(isinstance(value, DTensor) for value in whole.parameters())
    for name, value in whole.state_dict().items():
        assert torch.equal(value, model.state_dict()[name].full_tensor())
    assert not torch.equal(whole[1].weight, before["1.weight"])
    assert whole_again(trainer(**given, is_world_process_zero=lambda: False), layers) is model
    assert whole_again(trainer(model=model, is_fsdp_enabled=False), layers) is model
