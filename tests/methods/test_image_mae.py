"""MAE for images against transformers' ViTMAE with the same weights.

Theirs has a class token, and biases of keys and of the bridge; ours have not. Key biases change nothing (softmax), the
bridge's is set to zero, and nothing may attend to the class token: by the attention mask in the encoder, and by leaving
it out of the decoder's sequence. What is left must give the same numbers.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from tubelet.config import preset
from tubelet.masks.random_masks import Random
from tubelet.methods.masked import Masked
from tubelet.nn.decoder import Decoder
from tubelet.nn.patches import patchify, sinusoid_of_plane, take
from tubelet.nn.vit import Encoder
from tubelet.targets import Pixels, normalise
from tubelet.types import Batch, Draws, Grid

SHAPE = Encoder(width=24, depth=3, heads=3, hidden=40, patch=(1, 8, 8), position="plane")
SHALLOW = Decoder(16, 2, 4, mlp_ratio=2.0, position="plane")
GRID = Grid(1, 5, 5, (1, 8, 8))
NAMES = {
    "embeddings.patch_embeddings.projection.": "embed.",
    "layers.": "blocks.",
    "attention.o_proj.": "attn.proj.",
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "layernorm.": "norm.",
}


def ours_of(theirs: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights of their encoder or decoder in our names."""
    state = {}
    for name, value in theirs.state_dict().items():
        for old, new in NAMES.items():
            name = name.replace(old, new)
        state[name] = value
    for stem in {name.split("attention.")[0] for name in state if "attention.q_proj" in name}:
        parts = [state.pop(f"{stem}attention.{part}_proj.weight") for part in "qkv"]
        biases = [state.pop(f"{stem}attention.{part}_proj.bias") for part in "qkv"]
        state |= {f"{stem}attn.qkv.weight": torch.cat(parts)}
        state |= {f"{stem}attn.q_bias": biases[0], f"{stem}attn.v_bias": biases[2]}  # that of keys goes
    return state


@pytest.fixture(scope="module")
def pair():
    config = ViTMAEConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=40,
        image_size=40,
        patch_size=8,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=32,
        layer_norm_eps=1e-6,
        mask_ratio=0.75,
        norm_pix_loss=True,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    theirs = ViTMAEForPreTraining(config).eval()
    embeddings = theirs.vit.embeddings  # at random weights theirs leaves its tables empty
    embeddings.patch_embeddings.projection._is_hf_initialized = False
    embeddings.position_embeddings._is_hf_initialized = False
    embeddings.initialize_weights()
    theirs.decoder.initialize_weights(25)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "position" not in name and "pos_embed" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=noise) * 0.1)
        theirs.decoder.decoder_embed.bias.zero_()
    ours = Masked(Random(0.75), Pixels("mae"), SHALLOW).build(SHAPE, GRID, 3)
    encoder = ours_of(theirs.vit)
    weight = encoder["embed.weight"]  # d c h w
    encoder["embed.weight"] = weight.permute(0, 2, 3, 1).flatten(1)
    del encoder["embeddings.cls_token"], encoder["embeddings.position_embeddings"]
    ours.encoder.load_state_dict(encoder)
    decoder = ours_of(theirs.decoder)
    for old, new in (("decoder_embed.", "bridge."), ("decoder_norm.", "norm."), ("decoder_pred.", "head.")):
        decoder = {name.replace(old, new): value for name, value in decoder.items()}
    decoder = {
        name.replace("decoder_layers.", "blocks.").replace("decoder_blocks.", "blocks."): value
        for name, value in decoder.items()
    }
    decoder["mask_token"] = decoder["mask_token"].flatten()
    del decoder["decoder_pos_embed"], decoder["bridge.bias"]
    ours.decoder.load_state_dict(decoder)
    return theirs, ours


@pytest.fixture
def batch() -> Batch:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 1, 40, 40), dtype=np.uint8))
    return Batch(pixels, torch.arange(2))


def image(batch: Batch) -> torch.Tensor:
    """As theirs wants it."""
    pixels = batch.video[:, :, 0].float() / 255
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    return (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def test_the_position_table_is_theirs_without_the_class_token(pair):
    theirs, ours = pair
    embeddings = theirs.vit.embeddings.position_embeddings[0]
    assert not embeddings[0].any()
    torch.testing.assert_close(ours.encoder.position(), embeddings[1:], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        sinusoid_of_plane(GRID, 16), theirs.decoder.decoder_pos_embed[0, 1:], rtol=1e-5, atol=1e-6
    )


def test_a_block_is_one_of_their_layers(pair):
    theirs, ours = pair
    x = torch.randn(2, 7, 24)
    torch.testing.assert_close(ours.encoder.blocks[1](x), theirs.vit.layers[1](x), rtol=1e-4, atol=1e-5)


def test_encoder_decoder_and_loss_are_theirs_but_for_the_class_token(pair, batch):
    theirs, ours = pair
    mask = ours.mask(batch, GRID, Draws(0, 0, range(2)))
    assert mask.visible.shape == (2, 7)  # 25 patches: int(25 / 4) = 6 there, 25 - int(0.75 * 25) = 7 here; equal of 196
    theirs.config.mask_ratio = 0.72  # so 7 there, too
    order = mask.hidden.float() + torch.arange(25) / 100  # what is seen first, in ascending order
    seen = torch.ones(2, 1 + 7)
    seen[:, 0] = 0  # nothing attends to the class token
    found = theirs.vit(image(batch), noise=order, attention_mask=seen)
    assert torch.equal(found.mask.bool(), mask.hidden)
    patches = patchify(batch.video, GRID.patch)
    latent = ours.encoder(normalise(take(patches, mask.visible).float() / 255, 3), mask.visible)
    torch.testing.assert_close(latent, found.last_hidden_state[:, 1:], rtol=1e-4, atol=1e-5)

    theirs_x = theirs.decoder.decoder_embed(found.last_hidden_state[:, 1:])
    hidden = theirs.decoder.mask_token.expand(2, 18, -1)
    x = torch.cat([theirs_x, hidden], dim=1)
    x = x.gather(1, found.ids_restore.unsqueeze(2).expand(-1, -1, 16)) + theirs.decoder.decoder_pos_embed[:, 1:]
    for layer in theirs.decoder.decoder_layers:
        x = layer(x)
    logits = theirs.decoder.decoder_pred(theirs.decoder.decoder_norm(x))
    torch.testing.assert_close(ours.imagine(patches, mask), take(logits, mask.predict), rtol=1e-3, atol=1e-4)

    target = theirs.patchify(image(batch))
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    error = ((logits - target) ** 2).mean(-1)
    loss = ours(batch, Draws(0, 0, range(2)))
    torch.testing.assert_close(
        loss.sum / loss.count, (error * found.mask).sum() / found.mask.sum(), rtol=1e-4, atol=1e-5
    )


def test_their_patches_and_normalised_targets_are_ours(pair, batch):
    theirs, _ = pair
    target = theirs.patchify(image(batch))
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    patches = patchify(batch.video, GRID.patch)
    torch.testing.assert_close(Pixels("mae").encode(patches.float() / 255, 3), target, rtol=1e-4, atol=1e-4)


def test_of_196_patches_49_are_seen():
    run = preset("image-mae-b")
    grid = run.grid()
    video = torch.zeros(2, 3, 1, 224, 224, dtype=torch.uint8)
    mask = run.method.mask(Batch(video, torch.arange(2)), grid, Draws(0, 0, range(2)))
    assert (mask.visible.shape[1], mask.predict.shape[1]) == (49, 147) == (int(196 * 0.25), 147)
    assert preset("image-mae-h").grid().tokens == 256


def test_the_small_one_fits_the_video_preset_that_follows():
    """But for the frames of a cube, which is what is inflated."""
    image, video = preset("image-mae-few-cpu"), preset("finetune-few-cpu")
    assert replace(image.encoder, patch=video.encoder.patch, drop_path=video.encoder.drop_path) == video.encoder
