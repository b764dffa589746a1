"""Photographs the pages of `tubelet serve` in a browser without a window, for docs/serve.md.

    tubelet embed FILMS --weights RUNS/small --window 2 --out features.npy
    python benchmarks/page_pictures.py --videos FILMS --runs RUNS --features features.npy --odd ODD

FILMS: a folder with sam2_01_dog.mp4 and sam2_04_coffee.mp4; RUNS: one with the runs small, tube-0.5, tube-0.75,
tube-0.9; ODD: a folder of videos of which one is broken, one there twice. Needs the extra `dev` and Chromium.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
DOG = "video={videos}/sam2_01_dog.mp4"
MASKS = f"?{DOG}&kinds=tube&kinds=mgm&kinds=mgmae&ratio=0.75&motion=true"
# name, address, what is seen once it is drawn, width, height
SHOTS = [
    ("serve_masks", MASKS, "MGMAE 75 %", 1100, 1260),
    ("serve_phone", MASKS, "MGMAE 75 %", 390, 1400),
    ("serve_reconstruction", f"reconstruction?{DOG}&run=small&ratio=0.75", "imagined", 1100, 800),
    ("serve_attention", f"attention?{DOG}&run=small&maps=mean&random=true", "mean", 1100, 1160),
    (
        "serve_similar",
        "similar?features={features}&of=clip&top=5&clip={videos}/sam2_04_coffee.mp4 · 4.00 to 6.00 s",
        "coffee",
        1100,
        900,
    ),
    ("serve_runs", "runs?run=tube-0.5&run=tube-0.75&run=tube-0.9", "learning rate", 1100, 1180),
    ("serve_check", "check?source={odd}", "broken", 1100, 1150),
]


def photograph(page: Any, address: str, shown: str, file: Path) -> None:
    """Waits until something is drawn and still, and keeps what fits the window, in so few colours that it is small."""
    page.goto(address)
    page.locator("#drawn").first.wait_for(state="attached")
    page.wait_for_timeout(15_000)
    if shown not in page.content() and not any(shown in frame.content() for frame in page.frames):
        print(f"{file.name}: {shown!r} is not to be seen at {address}", file=sys.stderr)
    page.screenshot(path=file)
    with Image.open(file) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("videos", "runs", "features", "odd"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[shot[0] for shot in SHOTS])
    parser.add_argument("--out", type=Path, default=PICTURES)
    args = parser.parse_args()
    words = {"videos": args.videos.name, "features": args.features.name, "odd": args.odd.name}
    command = ["tubelet", "serve", "--videos", args.videos, args.odd, "--runs", args.runs, "--features", args.features]
    server = subprocess.Popen(
        [sys.executable, "-m", *map(str, command), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    url = next(found[0] for line in server.stdout if (found := re.match(r"http://\S+", line)))
    try:
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for name, address, shown, width, height in SHOTS:
                if name in args.only:
                    page = browser.new_page(viewport={"width": width, "height": height})
                    photograph(page, f"{url}/{address.format(**words)}", shown, args.out / f"{name}.png")
                    page.close()
            browser.close()
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
