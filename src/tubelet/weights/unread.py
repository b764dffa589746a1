"""What networks of others may have and ours cannot: such files are refused by its name, and not by that of a tensor."""

import re

from tubelet.weights.archive import Archive
from tubelet.weights.report import some

OF_BLOCK = r".*(?:blocks|layers?)\.\d+\."
UNREAD = (
    ("LayerScale", rf"{OF_BLOCK}.*(?:gamma(?:_[12])?|lambda_?[12])"),
    ("register tokens", r".*(?:register_tokens?|reg_tokens?|storage_tokens)"),
    ("cosine attention", rf"{OF_BLOCK}attn\w*\.(?:.*\.)?(?:scale|logit_scale)"),
    ("norms of queries and keys", rf"{OF_BLOCK}.*(?:q_norm|k_norm|q_layernorm|k_layernorm)\.weight"),
    ("a gated MLP (SwiGLU)", rf"{OF_BLOCK}mlp\.(?:w12|w3|fc1_g|fc3|weights_in)\.weight"),
    ("norms and embeddings of V-JEPA 2.1", r"norms_block\.\d+\.weight|(?:img|video)_mod_embed|patch_embed_img\..*"),
    (
        "quantised weights",
        r".*(?:\.SCB|\.qweight|\.qzeros|\.absmax|\.quant_map|_scale_inv|\.weight_scale|quant_state.*)",
    ),
)


def readable(archive: Archive) -> None:
    """Checks that a file has nothing that our networks cannot have.

    Raises:
        ValueError: it has; says what and where.
    """
    for what, pattern in UNREAD:
        if names := [name for name in archive.state if re.fullmatch(pattern, name)]:
            raise ValueError(
                f"{archive.path} has {what} ({some(names)}), which tubelet's networks have not: it cannot be read"
            )
    if narrow := [name for name, value in archive.state.items() if value.element_size() < 2 and value.ndim > 1]:
        raise ValueError(
            f"{archive.path} has quantised weights ({archive.state[narrow[0]].dtype}: {some(narrow)}), which tubelet "
            "cannot read; take those it was made from"
        )
