"""The rows of examples/gpu_cost.py, the most important ones first."""

from typing import Any

import torch

from benchmarking.variants import Variant

LAST, HALF = torch.channels_last, torch.bfloat16
EXACT, FAST = "tadp, float32", "tadp, bfloat16"
PASSES = {  # name: variant, whether TensorFloat-32 is allowed
    FAST: (Variant("", dtype=HALF), False),
    "tadp, bfloat16, channels_last": (Variant("", dtype=HALF, memory_format=LAST), False),
    "diffusers with hooks, bfloat16": (Variant("", "hooks", dtype=HALF), False),
    "diffusers by hand, bfloat16": (Variant("", "by hand", dtype=HALF), False),
    "diffusers with hooks, TensorFloat-32": (Variant("", "hooks"), True),
    "diffusers by hand, TensorFloat-32": (Variant("", "by hand"), True),
    "tadp, TensorFloat-32": (Variant(""), True),
    EXACT: (Variant(""), False),
    "diffusers by hand, float32": (Variant("", "by hand"), False),
}
COMPILED = {
    "tadp, bfloat16, compiled": (Variant("", dtype=HALF, compiled="default"), False),
    "tadp, bfloat16, compiled, CUDA graphs": (Variant("", dtype=HALF, compiled="reduce-overhead"), False),
    "tadp, bfloat16, channels_last, compiled": (
        Variant("", dtype=HALF, memory_format=LAST, compiled="default"),
        False,
    ),
}
PARTS = 4
TRAINED, CHECKPOINTED = "U-Net trained, bfloat16", "U-Net trained, bfloat16, gradient checkpointing"
STEPS: dict[str, dict[str, Any]] = {
    TRAINED: {"half": True},
    "U-Net trained, bfloat16, channels_last": {"half": True, "memory_format": LAST},
    "U-Net frozen, bfloat16": {"half": True, "tune": "nothing"},
    "LoRA of rank 16, bfloat16": {"half": True, "tune": "lora"},
    CHECKPOINTED: {"half": True, "checkpointing": True},
    "LoRA of rank 16, bfloat16, gradient checkpointing": {"half": True, "tune": "lora", "checkpointing": True},
    f"{CHECKPOINTED}, batch in {PARTS} parts": {"half": True, "checkpointing": True, "parts": PARTS},
    "U-Net trained, TensorFloat-32": {"tf32": True},
}
