"""Which network a set of tensors looks like, for the message about one that is not."""

from __future__ import annotations

from bns_jax.models.published import PUBLISHED
from bns_jax.models.tensors import StateDict

_MARKS = {
    "label_emb.weight": "a class-conditional ADM of guided-diffusion",
    "input_blocks.0.0.weight": "an unconditional ADM of guided-diffusion",
    "model.map_noise.freqs": "an NCSN++ of EDM",
    "model.out_norm.weight": "an ADM in EDM's writing",
    "model.map_layer0.weight": "a DDPM++ of EDM",
    "y_embedder.embedding_table.weight": "a DiT or SiT",
    "model.diffusion_model.input_blocks.0.0.weight": "a latent diffusion model",
    "transformer_blocks.0.norm1.linear.weight": "a transformer of diffusers",
    "down_blocks.0.resnets.0.norm1.weight": "a U-Net of diffusers",
    "Conv2d_1a_3x3.conv.weight": "an Inception network",
    "Dense_0/kernel": "a network of this project's own",
}
"""Tensors that tell who made a network, the most telling first."""

_NOT_WEIGHTS = (".resample_filter", ".map_augment.weight")
"""What EDM's files hold besides; see `edm.unused`."""


def looks_like(tensors: StateDict) -> str:
    """What a checkpoint seems to be, in words.

    Args:
      tensors: by name.

    Returns:
      A few words for a message: names of `PUBLISHED`, or its maker and size.
    """
    sizes = {k: v.size for k, v in tensors.items() if not k.endswith(_NOT_WEIGHTS)}
    count = sum(sizes.values())
    names = [name for name, entry in PUBLISHED.items() if entry.parameters == count]
    if names and any(mark in tensors for mark in _MARKS):
        return " or ".join(names)
    for mark, kind in _MARKS.items():
        if mark in tensors:
            return f"{kind} with {count:,} parameters"
    first = sorted(tensors)[:3]
    return f"no network known here: {count:,} numbers in {', '.join(first)}, ..."
