"""UCF101 and HMDB51, and from one to the other: readers as in `layouts.py`."""

import re
from dataclasses import replace
from pathlib import Path

from tubelet.data.items import Item
from tubelet.data.layouts import Found, existing, join, listed, only


def ucf101(
    folder: Path, part: str = "train", *, split: str = "1", lists: str | None = None, videos: str | None = None
) -> Found:
    """UCF101, from trainlist0k.txt or testlist0k.txt (`split` 1, 2 or 3) and classInd.txt.

    Clips cut from one longer video are a group.

    Raises:
        ValueError: a class that classInd.txt does not have, or with another number.
    """
    wanted, source = ucf_list(Path(lists) if lists else folder, part, split)
    # The lists write v_HandStandWalking, some copies of the videos v_HandstandWalking.
    return join(wanted, Path(videos) if videos else folder, source, fold=True)


def ucf_list(folder: Path, part: str, split: str) -> tuple[list[Item], Path]:
    """What UCF101's list of a part names, and the list."""
    only(part, ("train", "test"), "UCF101")
    path = listed(folder, f"{part}list{int(split):02d}.txt")[0]
    names = existing(path.parent / "classInd.txt")
    numbers = {name: number for number, name in map(str.split, filled(names))}
    items = []
    for line in filled(path):
        name, *number = line.split()
        label, stem = name.split("/")[0], Path(name).stem
        if label not in numbers or number not in ([], [numbers[label]]):
            raise ValueError(f"{path}: {line!r} is of no class in {names}, or of one with another number there")
        items.append(Item(Path(stem), label, group=re.sub(r"_c\d+$", "", stem)))
    return items, path


def hmdb51(
    folder: Path, part: str = "train", *, split: str = "1", lists: str | None = None, videos: str | None = None
) -> Found:
    """HMDB51, from its files `<class>_test_split<k>.txt` (`split` 1, 2 or 3): 1 is training, 2 test, 0 neither.

    Raises:
        ValueError: a line that does not end in 0, 1 or 2.
    """
    wanted, source = hmdb_list(Path(lists) if lists else folder, part, split)
    return join(wanted, Path(videos) if videos else folder, source)


def hmdb_list(folder: Path, part: str, split: str) -> tuple[list[Item], Path]:
    """What HMDB51's lists of a split name for a part, and the lists."""
    only(part, ("train", "test"), "HMDB51")
    ending, items = f"_test_split{int(split)}.txt", []
    paths = listed(folder, f"*{ending}")
    for path in paths:
        for line in filled(path):
            name, _, use = line.rpartition(" ")
            if use not in ("0", "1", "2"):
                raise ValueError(f"{path}: {line!r} does not end in 0, 1 or 2")
            if use == ("1" if part == "train" else "2"):
                items.append(Item(Path(Path(name.strip()).stem), path.name.removesuffix(ending)))
    return items, paths[0].parent / f"*{ending}"


def filled(path: Path) -> list[str]:
    """The lines of a file that are not empty."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


# ---------------------------------------------------------------------------- from one to the other

# Partial domain adaptation (PATAN, ICCV 2021): a name in the source, and in the target where it has the class too.
# The order is that of the labels, and is another one in the other direction.
UCF14_HMDB7: dict[str, str | None] = {
    "RockClimbingIndoor": "climb",
    "Diving": "dive",
    "Fencing": "fencing",
    "GolfSwing": "golf",
    "HandstandWalking": "handstand",
    "SoccerPenalty": "kick_ball",
    "PullUps": "pullup",
    **dict.fromkeys(("Punch", "PushUps", "Biking", "HorseRiding", "Basketball", "Archery", "WalkingWithDog")),
}
HMDB14_UCF7: dict[str, str | None] = {
    "shoot_bow": "Archery",
    "shoot_ball": "Basketball",
    "ride_bike": "Biking",
    "dive": "Diving",
    "fencing": "Fencing",
    "golf": "GolfSwing",
    "handstand": "HandstandWalking",
    **dict.fromkeys(("ride_horse", "pullup", "punch", "pushup", "climb", "kick_ball", "walk")),
}


def ucf14_hmdb7(folder: Path, part: str = "train", *, split: str = "1", **places: str) -> Found:
    """UCF14 to HMDB7: `train` and `val` are UCF101's training and test videos of 14 classes; `test` is HMDB51's test
    videos of the 7 that it shares, called as in UCF101.

    The data sets are in the folders UCF101 and HMDB51, or where the options `ucf101` and `hmdb51` say.
    """
    return adapted(folder, part, split, places, ("ucf101", "hmdb51"), UCF14_HMDB7)


def hmdb14_ucf7(folder: Path, part: str = "train", *, split: str = "1", **places: str) -> Found:
    """HMDB14 to UCF7: `train` and `val` are HMDB51's training and test videos of 14 classes; `test` is UCF101's test
    videos of the 7 that it shares, called as in HMDB51.

    The data sets are in the folders UCF101 and HMDB51, or where the options `ucf101` and `hmdb51` say.
    """
    return adapted(folder, part, split, places, ("hmdb51", "ucf101"), HMDB14_UCF7)


def adapted(
    folder: Path,
    part: str,
    split: str,
    places: dict[str, str],
    names: tuple[str, str],
    classes: dict[str, str | None],
) -> Found:
    """The videos of the source's classes, or those of the target's under the source's names."""
    only(part, ("train", "val", "test"), f"the pair of {names[0]} and {names[1]}")
    name = names[part == "test"]
    place = existing(Path(places.get(name, folder / name.upper())))
    wanted, source = {"ucf101": ucf_list, "hmdb51": hmdb_list}[name](
        place, "train" if part == "train" else "test", split
    )
    called = {theirs if part == "test" else ours: ours for ours, theirs in classes.items()}
    found = join([item for item in wanted if item.label in called], place, source, fold=name == "ucf101")
    return replace(found, items=[replace(item, label=called[item.label]) for item in found.items])
