"""Stand-ins for detectron2 and mmseg, which cannot be installed here; they follow the documentation of the two."""

import types

import pytest
from integrations import stand_in
from torch import nn


@pytest.fixture
def detectron2(monkeypatch):
    """`Backbone`, `ShapeSpec` and the registry, as detectron2's documentation describes them."""

    class Backbone(nn.Module):
        def forward(self):
            raise NotImplementedError

    class ShapeSpec(types.SimpleNamespace):
        pass

    class Registry(dict):
        def register(self, builder):
            self[builder.__name__] = builder

    stand_in(monkeypatch, "detectron2")
    stand_in(monkeypatch, "detectron2.layers", ShapeSpec=ShapeSpec)
    return stand_in(monkeypatch, "detectron2.modeling", Backbone=Backbone, BACKBONE_REGISTRY=Registry())


@pytest.fixture
def mmseg(monkeypatch):
    """mmengine's `BaseModule` and a registry with `register_module` and `build`."""

    class BaseModule(nn.Module):
        def __init__(self, init_cfg=None):
            super().__init__()
            self.init_cfg = init_cfg

    class Registry(dict):
        def register_module(self, *, name, force, module):
            assert force or name not in self
            self[name] = module

        def build(self, config):
            config = dict(config)
            return self[config.pop("type")](**config)

    for name in ("mmengine", "mmseg"):
        stand_in(monkeypatch, name)
    stand_in(monkeypatch, "mmengine.model", BaseModule=BaseModule)
    return stand_in(monkeypatch, "mmseg.registry", MODELS=Registry())
