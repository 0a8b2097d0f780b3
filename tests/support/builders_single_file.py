"""Small Stable Diffusion models in one file, written under the names of the original code."""

from pathlib import Path

import originals
import torch
from builders import WIDTH, build_sd2_unet, build_text_encoder, build_tokenizer, build_unet, build_vae
from safetensors.torch import save_file

from tadp.diffusion.vae import VAEEncoder


def parts_of(family: str, **text_options: int) -> dict:
    unet = build_unet() if family == "sd1" else build_sd2_unet()
    return {"unet": unet, "vae": build_vae(), "text_encoder": build_text_encoder(**text_options)}


def whole(family: str, **text_options: int) -> dict[str, torch.Tensor]:
    """A checkpoint as the original code writes it, with the VAE decoder, the noise schedule and averaged weights."""
    parts = parts_of(family, **text_options)
    vae = VAEEncoder(parts["vae"])
    state = {f"model.diffusion_model.{there}": parts["unet"].state_dict()[here]
             for here, there in originals.ldm_unet(parts["unet"]).items()}  # fmt: skip
    state |= {f"first_stage_model.{there}": vae.state_dict()[here] for here, there in originals.ldm_vae(vae).items()}
    state |= {
        "first_stage_model.decoder.conv_in.weight": torch.zeros(2), "betas": torch.zeros(3),
        "model_ema.decay": torch.tensor(0.9), "first_stage_model.post_quant_conv.bias": torch.zeros(4),
    }  # fmt: skip
    text = {name.removeprefix("text_model."): tensor for name, tensor in parts["text_encoder"].state_dict().items()}
    if family == "sd1":
        prefix = "cond_stage_model.transformer.text_model."
        return state | {f"{prefix}{name}": tensor for name, tensor in text.items()} | {
            f"{prefix}embeddings.position_ids": torch.arange(77)[None]
        }  # fmt: skip
    prefix = "cond_stage_model.model."
    state[f"{prefix}token_embedding.weight"] = text["embeddings.token_embedding.weight"]
    state[f"{prefix}positional_embedding"] = text["embeddings.position_embedding.weight"]
    state[f"{prefix}text_projection"] = torch.zeros(WIDTH, 8)
    state[f"{prefix}logit_scale"] = torch.tensor(1.0)
    for kind in ("weight", "bias"):
        state[f"{prefix}ln_final.{kind}"] = text[f"final_layer_norm.{kind}"]
        for layer in (0, 1):
            block, ldm_block = f"encoder.layers.{layer}.", f"{prefix}transformer.resblocks.{layer}."
            joined = torch.cat([text[f"{block}self_attn.{k}_proj.{kind}"] for k in "qkv"])
            state[f"{ldm_block}attn.in_proj_{kind}"] = joined
            state[f"{ldm_block}attn.out_proj.{kind}"] = text[f"{block}self_attn.out_proj.{kind}"]
            for here, there in (("layer_norm1", "ln_1"), ("layer_norm2", "ln_2")):
                state[f"{ldm_block}{there}.{kind}"] = text[f"{block}{here}.{kind}"]
            for here, there in (("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")):
                state[f"{ldm_block}{there}.{kind}"] = text[f"{block}{here}.{kind}"]
        state[f"{prefix}transformer.resblocks.2.ln_1.{kind}"] = torch.zeros(WIDTH)  # the last layer, which is never run
    return state


def write(state: dict[str, torch.Tensor], path: Path) -> Path:
    state = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    if path.suffix == ".ckpt":
        torch.save({"state_dict": state, "global_step": 3}, path)
    else:
        save_file(state, path)
    return path


def write_configs(family: str, folder: Path, **text_options: int) -> Path:
    """Save the configurations of the small models, and their tokenizer, in a folder."""
    for part, module in parts_of(family, **text_options).items():
        (folder / part).mkdir(parents=True)
        config = module.config.to_json_string() if part == "text_encoder" else module.to_json_string()
        (folder / part / "config.json").write_text(config)
    build_tokenizer().save_pretrained(folder / "tokenizer")
    return folder
