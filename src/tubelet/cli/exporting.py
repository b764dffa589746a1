"""The verbs that take weights elsewhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tubelet.cli.arguments import NOTHING, OfOthers, Unprefixed, parse, tell


def export_verb(args: list[str]) -> int:
    """A run for other programs: tubelet export RUN --to hf --out DIR"""

    @dataclass(frozen=True)
    class Export:
        """Write the network of a run in a format of others.

        tubelet export runs/tuned --to hf --out videomae-gestures --licence cc-by-4.0

        hf is a folder for transformers, with a model card; official a .pth for VideoMAE's own code; onnx and
        pt2 (torch.export) take uint8 clips, any number of them, and are compared with PyTorch before they are kept.
        Nothing is replaced.
        """

        run: tyro.conf.Positional[Path]
        """Folder of a run, a file of it (best.safetensors), or weights of others."""
        to: Literal["hf", "onnx", "pt2", "official"]
        """The format."""
        out: Path
        """Folder (hf) or file (.onnx, .pt2, .pth) to write."""
        part: Literal["encoder", "whole"] | None = None
        """The encoder, or all: with head or, in hf and official, with decoder. By default all that the format has."""
        licence: str | None = None
        """For the model card (hf): who may use it, as in apache-2.0 or cc-by-nc-4.0. By default none is stated."""
        others: Annotated[OfOthers, Unprefixed] = NOTHING

    a = parse(Export, args, "export")
    if a.licence is not None and a.to != "hf":
        raise ValueError(f"--licence goes into the model card of --to hf; {a.to} has none")
    from tubelet.train.folder import unfinished
    from tubelet.train.log import noted

    noted(unfinished(a.run))
    asked = a.others.asked()
    if a.to in ("onnx", "pt2"):
        from tubelet.export.graphs import write_onnx, write_pt2

        written = (write_onnx if a.to == "onnx" else write_pt2)(a.run, a.out, a.part, asked, tell)
        told = f"{written.output}, off by {written.error:.1e} from PyTorch's (up to {written.largest:.3g})"
        print("\n".join([*map(str, written.files), told]))
        return 0
    from tubelet.export.folder import write_folder
    from tubelet.export.official import write_official

    if a.to == "hf":
        noted(write_folder(a.run, a.out, a.part, a.licence, asked, tell))
    else:
        noted(write_official(a.run, a.out, a.part, asked, tell))
    print(a.out)
    return 0


def push_verb(args: list[str]) -> int:
    """An exported folder to the Hugging Face hub: tubelet push DIR OWNER/NAME"""

    @dataclass(frozen=True)
    class Push:
        """Put a folder that `tubelet export --to hf` wrote on the Hugging Face hub.

        tubelet push videomae-gestures my-lab/videomae-gestures

        Private unless said otherwise. Needs pip install 'tubelet[hub]' and hf auth login.
        """

        folder: tyro.conf.Positional[Path]
        """The exported folder."""
        name: tyro.conf.Positional[str]
        """OWNER/NAME."""
        private: bool = True
        """Only for its owner; --no-private for everyone."""

    a = parse(Push, args, "push")
    from tubelet.export.hub import push

    print(push(a.folder, a.name, a.private))
    return 0
