"""Data sets as they come: the annotation files of each, joined with the videos that are there.

A reader takes the folder of a data set and returns the videos of one part of it, and the names of those that are not
there, which is a result and not an error: of Kinetics some are always gone. Videos are found by name at any depth below
the folder, so it does not matter how they were sorted into folders, nor in which container they are; folders of frames
are found likewise. `sources.find` gives every reader a name.
"""

import csv
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tubelet.data.index import SUFFIXES
from tubelet.data.items import Item, pictures_in, scan
from tubelet.data.lists import PARTS


@dataclass(frozen=True)
class Found:
    """The videos of a data set that are there, and the names of those that are not."""

    items: Sequence[Item]
    missing: tuple[str, ...] = ()
    source: str = ""  # what names them

    def report(self) -> str:
        """How much is missing, for people; empty where nothing is."""
        if not self.missing:
            return ""
        total = len(self.items) + len(self.missing)
        rest = f" and {len(self.missing) - 3} more" if len(self.missing) > 3 else ""
        return (
            f"{len(self.missing)} of {total} videos ({100 * len(self.missing) / total:.1f} %) that {self.source} names "
            f"are missing: {', '.join(self.missing[:3])}{rest}"
        )


def join(wanted: Iterable[Item], videos: Path, source: Path, fold: bool = False) -> Found:
    """The items whose names (their paths, without ending) are found below a folder; `fold`: in any case of letters.

    Raises:
        FileNotFoundError: none is there.
        ValueError: none was wanted.
    """
    there = by_name(videos, fold)
    items: list[Item] = []
    missing: list[str] = []
    for item in wanted:
        name = str(item.path)
        classes = (item.label or "", (item.label or "").replace(" ", "_"))
        keys = [*(f"{label}/{name}" for label in classes), name]
        found = next((there[key] for key in (k.lower() if fold else k for k in keys) if key in there), None)
        if found is None:
            missing.append(name)
        else:
            items.append(replace(item, path=found))
    if not items and not missing:
        raise ValueError(f"{source} names no videos of this part")
    if not items:
        raise FileNotFoundError(
            f"none of the {len(missing)} videos that {source} names is below {videos}; looked for {missing[0]} with "
            f"one of the endings {', '.join(sorted(SUFFIXES))}, or a folder of its frames. Where the videos are "
            "elsewhere, add ?videos=FOLDER"
        )
    return Found(items, tuple(missing), str(source))


def by_name(videos: Path, fold: bool = False) -> dict[str, Path]:
    """The videos below a folder by name without ending, and by that with the folder's before it."""
    there: dict[str, Path] = {}
    for path in (item.path for item in scan(videos)[0]):
        name = path.stem if path.suffix.lower() in SUFFIXES else path.name
        for key in (name, f"{path.parent.name}/{name}"):
            there.setdefault(key.lower() if fold else key, path)
    return there


def annotation(folder: Path, suffix: str, part: str, lists: str | None, without: Sequence[str] = ()) -> Path:
    """The file in a folder, or one below it, whose name has the word for a part in it.

    Raises:
        FileNotFoundError: there is none, or not the one that is named.
        ValueError: there are several.
    """
    if lists is not None:
        return existing(Path(lists))
    files = sorted([*existing(folder).glob(f"*{suffix}"), *folder.glob(f"*/*{suffix}")])
    words = {file: set(re.findall("[a-z]+", file.stem.lower())) for file in files}
    fitting = [file for file in files if words[file] & set(PARTS.get(part, (part,))) and not words[file] & set(without)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(str(file) for file in fitting)
        raise ValueError(f"{folder} has more than one list for {part}: {names}; say which: ?lists=FILE")
    raise FileNotFoundError(
        f"{folder} has no list for {part}: expected a file *{PARTS.get(part, (part,))[0]}*{suffix} in it or in a "
        "folder below; where it is elsewhere, add ?lists=FILE"
    )


def existing(path: Path) -> Path:
    """The same path.

    Raises:
        FileNotFoundError: there is nothing.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path} (looked in {Path.cwd()})")
    return path


def listed(folder: Path, pattern: str) -> list[Path]:
    """The files of a name in a folder, or one below; sorted.

    Raises:
        FileNotFoundError: there are none.
    """
    existing(folder)
    paths = sorted(folder.glob(pattern)) or sorted(folder.glob(f"*/{pattern}"))
    if not paths:
        raise FileNotFoundError(
            f"{folder} has no {pattern}, nor has a folder below it; where the lists are elsewhere, add ?lists=FOLDER"
        )
    return paths


def loaded(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def only(part: str, parts: Sequence[str], name: str) -> None:
    """Checks that a data set has a part.

    Raises:
        ValueError: it has others.
    """
    if part not in parts:
        raise ValueError(f"{name} has no part {part!r}; it has {' and '.join(parts)}")


# ---------------------------------------------------------------------------- pictures


def pictures(folder: Path, part: str = "") -> Found:
    """Every picture at any depth, each a video of one frame; the folder above is the label, as ImageNet has it.

    A part is a folder in it, called train, val or test, or a longer word for it.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no pictures.
    """
    place = existing(folder)
    if part:
        place = next((folder / name for name in PARTS[part] if (folder / name).is_dir()), folder / part)
    return Found(pictures_in(existing(place)), source=str(place))


# ---------------------------------------------------------------------------- Kinetics


def kinetics(folder: Path, part: str = "train", *, lists: str | None = None, videos: str | None = None) -> Found:
    """Kinetics-400, -600 or -700, from its csv (label, youtube_id, time_start, time_end, split).

    Videos are called `<id>_<start>_<end>` with six digits each. Videos of one source on YouTube are a group.
    """
    path = annotation(folder, ".csv", part, lists)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    lacking = {"youtube_id", "time_start", "time_end"} - set(rows[0] if rows else ())
    if lacking:
        raise ValueError(f"{path} has no columns {', '.join(sorted(lacking))}; expected Kinetics' own csv")
    if any(row.get("split") for row in rows):
        rows = [row for row in rows if row["split"] in PARTS.get(part, (part,))]
    return join(
        (
            Item(
                Path(f"{row['youtube_id']}_{float(row['time_start']):06.0f}_{float(row['time_end']):06.0f}"),
                row.get("label") or None,  # the lists of test videos have none
                group=row["youtube_id"],
            )
            for row in rows
        ),
        Path(videos) if videos else folder,
        path,
    )


def mini_kinetics(
    folder: Path,
    part: str = "train",
    *,
    lists: str | None = None,
    videos: str | None = None,
    first: str | None = None,
) -> Found:
    """Mini-Kinetics-200, from lines `id_start_end label`, with the names of the classes as labels.

    The lists as published count classes from 1, copies of them in csv from 0: whichever list has a 0 counts from 0, one
    with a 200 from 1, and of others `first` says which.

    Raises:
        ValueError: labels that no class has, or that could be meant either way.

    Source: Xie et al. 2018 (arXiv:1712.04851).
    """
    only(part, ("train", "val"), "Mini-Kinetics")
    try:
        path = annotation(folder, ".txt", part, lists)
    except FileNotFoundError:
        path = annotation(folder, ".csv", part, lists)
    rows = [line.replace(",", " ").rsplit(maxsplit=1) for line in path.read_text().splitlines() if line.strip()]
    if not all(len(row) == 2 and row[1].isdigit() for row in rows):
        wrong = next(row for row in rows if len(row) != 2 or not row[1].isdigit())
        raise ValueError(f"{path}: {' '.join(wrong)!r} is not a name and the number of a class")
    numbers = [int(label) for _, label in rows]
    low, high = min(numbers, default=0), max(numbers, default=0)
    names = MINI_KINETICS.split("; ")
    if first not in (None, "0", "1") or (first is None and low > 0 and high < len(names)):
        raise ValueError(
            f"{path} has classes {low} to {high} of {len(names)}: that does not say whether the first is 0 or 1; "
            "add ?first=0 or ?first=1"
        )
    base = int(first) if first else int(low > 0)
    if low < base or high - base >= len(names):
        raise ValueError(f"{path} has classes {low} to {high}; counted from {base} there are {base} to {base + 199}")
    wanted = [(Path(name).name, names[number - base]) for (name, _), number in zip(rows, numbers)]
    wanted = [
        (name.rsplit(".", 1)[0] if Path(name).suffix.lower() in SUFFIXES else name, label) for name, label in wanted
    ]
    items = (Item(Path(name), label, group=re.sub(r"_\d{6}_\d{6}$", "", name)) for name, label in wanted)
    return join(items, Path(videos) if videos else folder, path)


# ---------------------------------------------------------------------------- Something-Something, Diving


def something(folder: Path, part: str = "train", *, lists: str | None = None, videos: str | None = None) -> Found:
    """Something-Something V2, from its json (id, template); the template without brackets is the label.

    Raises:
        ValueError: a template that labels.json does not have, where that file is there.
    """
    path = annotation(folder, ".json", part, lists, without=("labels",))
    rows = loaded(path)
    labels = [row["template"].replace("[", "").replace("]", "") if "template" in row else None for row in rows]
    names = next((loaded(file) for file in sorted(path.parent.glob("*labels.json"))), None)
    unknown = sorted({label for label in labels if label is not None and names is not None and label not in names})
    if unknown:
        raise ValueError(f"{path} has {len(unknown)} templates that labels.json has not, the first is {unknown[0]!r}")
    items = (Item(Path(str(row["id"])), label) for row, label in zip(rows, labels))
    return join(items, Path(videos) if videos else folder, path)


def diving48(folder: Path, part: str = "train", *, lists: str | None = None, videos: str | None = None) -> Found:
    """Diving48, from its json (vid_name, label; the corrected one is called V2) and vocabulary.

    A label is the four words of the vocabulary, or its number where that is not there. Each file is one dive, so
    `start_frame` and `end_frame`, which count its frames, are not looked at. Dives of one competition are a group.
    """
    only(part, ("train", "test"), "Diving48")
    path = annotation(folder, ".json", part, lists, without=("vocab",))
    vocabulary = next((loaded(file) for file in sorted(path.parent.glob("*vocab*.json"))), None)
    rows = loaded(path)
    if vocabulary is not None and not all(0 <= int(row["label"]) < len(vocabulary) for row in rows):
        raise ValueError(f"{path} has labels that the vocabulary with its {len(vocabulary)} entries has not")
    return join(
        (
            Item(
                Path(row["vid_name"]),
                str(row["label"]) if vocabulary is None else " ".join(vocabulary[int(row["label"])]),
                group=row["vid_name"].rpartition("_")[0] or None,
            )
            for row in rows
        ),
        Path(videos) if videos else folder,
        path,
    )


# In the order of the labels, of which the first is 1 in the lists as published.
MINI_KINETICS = """
    abseiling; air drumming; archery; arm wrestling; baking cookies; balloon blowing; barbequing; beatboxing; belly
    dancing; bench pressing; biking through snow; blowing glass; blowing out candles; bookbinding; bowling; braiding
    hair; breakdancing; brushing hair; brushing teeth; bungee jumping; busking; canoeing or kayaking; capoeira;
    catching or throwing baseball; catching or throwing frisbee; catching or throwing softball; cheerleading;
    chopping wood; clean and jerk; cleaning floor; climbing tree; contact juggling; cooking chicken; country line
    dancing; crawling baby; crossing river; crying; curling hair; cutting watermelon; dancing ballet; dancing
    gangnam style; dancing macarena; deadlifting; diving cliff; doing nails; dribbling basketball; driving car;
    driving tractor; dunking basketball; dying hair; eating burger; eating ice cream; eating spaghetti; feeding
    birds; feeding fish; feeding goats; filling eyebrows; finger snapping; flying kite; folding napkins; folding
    paper; front raises; giving or receiving award; golf driving; golf putting; gymnastics tumbling; hammer throw;
    headbanging; high jump; high kick; hitting baseball; hula hooping; hurling (sport); ice climbing; ice skating;
    javelin throw; jetskiing; juggling balls; jumping into pool; kicking field goal; kitesurfing; laughing; long
    jump; lunge; making pizza; making snowman; marching; massaging back; milking cow; motorcycling; mowing lawn;
    opening present; paragliding; parasailing; passing American football (in game); passing American football (not
    in game); petting animal (not cat); picking fruit; playing accordion; playing badminton; playing bagpipes;
    playing basketball; playing bass guitar; playing cello; playing chess; playing clarinet; playing cricket;
    playing didgeridoo; playing drums; playing guitar; playing harmonica; playing harp; playing ice hockey; playing
    paintball; playing poker; playing recorder; playing saxophone; playing squash or racquetball; playing tennis;
    playing trombone; playing trumpet; playing ukulele; playing violin; playing volleyball; playing xylophone; pole
    vault; presenting weather forecast; pull ups; pumping fist; punching bag; pushing car; pushing cart; reading
    book; riding elephant; riding or walking with horse; riding unicycle; robot dancing; rock climbing; roller
    skating; sailing; salsa dancing; scrambling eggs; scuba diving; shaking head; sharpening pencil; shaving head;
    shearing sheep; shot put; shoveling snow; shuffling cards; side kick; singing; situp; skateboarding; ski
    jumping; skiing (not slalom or crosscountry); slacklining; sled dog racing; smoking; smoking hookah; snatch
    weight lifting; snorkeling; snowboarding; snowkiting; somersaulting; spinning poi; spray painting; squat;
    sticking tongue out; stretching leg; surfing crowd; surfing water; swimming backstroke; swimming breast stroke;
    tai chi; tango dancing; tap dancing; tapping guitar; throwing axe; throwing discus; tobogganing; trapezing;
    trimming or shaving beard; triple jump; tying knot (not on a tie); unboxing; using computer; walking the dog;
    washing dishes; washing feet; washing hands; water skiing; waxing chest; waxing legs; weaving basket; welding;
    windsurfing; wrapping present; yoga; zumba
    """.replace("\n    ", " ").strip()
