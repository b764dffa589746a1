"""Miniature copies of data sets as they come, against what was written into them by hand."""

import json
import warnings
from pathlib import Path

import pytest

from tubelet.data.layouts import MINI_KINETICS
from tubelet.data.sources import MissingVideos, find, read
from tubelet.data.ucf_hmdb import HMDB14_UCF7, UCF14_HMDB7


def files(folder: Path, contents: dict[str, str]) -> Path:
    """A folder with these files; videos are empty ones."""
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def seen(source: str) -> list[tuple[str, str | None, str | None]]:
    """(file, label, group) of everything found, which must be all."""
    return [(item.path.name, item.label, item.group) for item in find(source)]


# ---------------------------------------------------------------------------- Kinetics

K400 = (
    "label,youtube_id,time_start,time_end,split\n"
    "abseiling,--A_bc,7,17,train\n"
    '"passing, not in game",x-Yz,120,130,train\n'
    "playing guitar,gone1,0,10,train\n"
)


def test_kinetics_in_every_way_it_is_kept(tmp_path):
    expected = [
        ("--A_bc_000007_000017.mp4", "abseiling", "--A_bc"),
        ("x-Yz_000120_000130.mkv", "passing, not in game", "x-Yz"),
    ]
    ways = {
        "classes": ("train/abseiling/", "train/passing, not in game/"),
        "underscores": ("videos_train/abseiling/", "videos_train/passing,_not_in_game/"),
        "flat": ("train/", "train/"),
    }
    for way, (one, other) in ways.items():
        folder = files(
            tmp_path / way,
            {
                "annotations/train.csv": K400,
                "annotations/val.csv": "label,youtube_id,time_start,time_end,split\nabseiling,q,1,11,validate\n",
                f"{one}--A_bc_000007_000017.mp4": "",
                f"{other}x-Yz_000120_000130.mkv": "",
                "val/q_000001_000011.mp4": "",
            },
        )
        with pytest.warns(
            MissingVideos, match=r"1 of 3 videos \(33\.3 %\) that .*train\.csv names are missing: gone1_0"
        ):
            assert seen(f"kinetics:{folder}") == expected
        assert seen(f"kinetics:{folder}:val") == [("q_000001_000011.mp4", "abseiling", "q")]
    with pytest.raises(FileNotFoundError, match="gone1_000000_000010"):
        find(f"kinetics:{folder}?missing=error")
    assert read(f"kinetics:{folder}").missing == ("gone1_000000_000010",)


def test_kinetics_with_lists_elsewhere(tmp_path):
    files(tmp_path, {"k/a/--A_bc_000007_000017.mp4": "", "k/test.csv": "youtube_id,time_start,time_end\nt,3,13\n"})
    files(tmp_path, {"lists/kinetics_700_2020.csv": K400 + "abseiling,t,3,13,test\n", "k/t_000003_000013.webm": ""})
    source = f"kinetics:{tmp_path}/k:test?lists={tmp_path}/lists/kinetics_700_2020.csv"
    assert seen(source) == [("t_000003_000013.webm", "abseiling", "t")]
    assert seen(f"kinetics:{tmp_path}/k:test") == [("t_000003_000013.webm", None, "t")]
    with pytest.raises(FileNotFoundError, match=r"has no list for train: expected a file \*train\*\.csv"):
        find(f"kinetics:{tmp_path}/k")
    files(tmp_path, {"two/train.csv": K400, "two/k600_train.csv": K400})
    with pytest.raises(ValueError, match=r"more than one list for train: .*; say which: \?lists=FILE"):
        find(f"kinetics:{tmp_path}/two")
    with pytest.raises(FileNotFoundError, match=r"none of the 3 videos .*looked for --A_bc_000007_000017 .*\?videos="):
        find(f"kinetics:{tmp_path}/lists?lists={tmp_path}/lists/kinetics_700_2020.csv")
    files(tmp_path, {"odd/train.csv": "path,label\na.mp4,1\n"})
    with pytest.raises(ValueError, match="has no columns time_end, time_start, youtube_id"):
        find(f"kinetics:{tmp_path}/odd")


def test_mini_kinetics_counts_from_one_or_from_zero(tmp_path):
    """The published list, and a copy from 0, name the same classes; a list that could be either is refused."""
    files(tmp_path, {f"v/{name}_000001_000011.mp4": "" for name in ("a-_b", "c", "d")})
    files(tmp_path, {"v/train_list.txt": "a-_b_000001_000011 1\nc_000001_000011 13\nd_000001_000011 200\n"})
    files(tmp_path, {"v/val.csv": "a-_b_000001_000011,0\nsome/c_000001_000011.mp4,12\nd_000001_000011,199\n"})
    expected = [
        ("a-_b_000001_000011.mp4", "abseiling", "a-_b"),
        ("c_000001_000011.mp4", "blowing out candles", "c"),
        ("d_000001_000011.mp4", "zumba", "d"),
    ]
    assert seen(f"mini-kinetics:{tmp_path}/v") == expected
    assert seen(f"mini-kinetics:{tmp_path}/v:val") == expected
    files(tmp_path, {"w/train.txt": "c_000001_000011 13\n", "w/c_000001_000011.mp4": ""})
    with pytest.raises(ValueError, match=r"classes 13 to 13 of 200: .* whether the first is 0 or 1; add \?first=0"):
        find(f"mini-kinetics:{tmp_path}/w")
    assert seen(f"mini-kinetics:{tmp_path}/w?first=1")[0][1] == "blowing out candles"
    assert seen(f"mini-kinetics:{tmp_path}/w?first=0")[0][1] == "bookbinding"
    files(tmp_path, {"w/train.txt": "c_000001_000011 0\nc_000001_000011 200\n"})
    with pytest.raises(ValueError, match="has classes 0 to 200; counted from 0 there are 0 to 199"):
        find(f"mini-kinetics:{tmp_path}/w")
    files(tmp_path, {"w/train.txt": "c_000001_000011\n"})
    with pytest.raises(ValueError, match="is not a name and the number of a class"):
        find(f"mini-kinetics:{tmp_path}/w")
    names = MINI_KINETICS.split("; ")
    assert len(names) == len(set(names)) == 200
    assert names == sorted(names, key=str.lower)


# ---------------------------------------------------------------------------- Something-Something, Diving


def test_something_something(tmp_path):
    rows = [
        {"id": "78687", "label": "holding potato", "template": "Holding [something] next to [something]"},
        {"id": "42326", "label": "x", "template": "Pretending to be tearing [something that is not tearable]"},
    ]
    labels = {row["template"].replace("[", "").replace("]", ""): str(n) for n, row in enumerate(rows)}
    name = "something-something-v2"
    contents = {
        f"labels/{name}-train.json": json.dumps(rows),
        f"labels/{name}-validation.json": json.dumps(rows[1:]),
        f"labels/{name}-test.json": json.dumps([{"id": "78687"}]),
        f"labels/{name}-labels.json": json.dumps(labels),
        "20bn/78687.webm": "",
        "20bn/42326.mp4": "",
    }
    files(tmp_path, contents)
    holding = "Holding something next to something"
    pretending = "Pretending to be tearing something that is not tearable"
    assert seen(f"ssv2:{tmp_path}") == [("78687.webm", holding, None), ("42326.mp4", pretending, None)]
    assert seen(f"ssv2:{tmp_path}:val") == [("42326.mp4", pretending, None)]
    assert seen(f"ssv2:{tmp_path}:test") == [("78687.webm", None, None)]
    files(tmp_path, {f"labels/{name}-labels.json": json.dumps({holding: "0"})})
    with pytest.raises(ValueError, match=r"has 1 templates that labels\.json has not, the first is 'Pretending"):
        find(f"ssv2:{tmp_path}")
    files(tmp_path, {f"labels/{name}-train.json": "{"})
    with pytest.raises(ValueError, match=r"train\.json is not JSON"):
        find(f"ssv2:{tmp_path}")


def test_something_something_as_frames(tmp_path):
    files(tmp_path, {f"frames/{clip}/{n:06d}.jpg": "" for clip in (7, 12) for n in (1, 2)})
    rows = [{"id": clip, "template": "Moving [something] up"} for clip in ("12", "7", "9")]
    files(tmp_path, {"train.json": json.dumps(rows)})
    with pytest.warns(MissingVideos, match=r"1 of 3 videos .*: 9;"):
        found = find(f"ssv2:{tmp_path}?videos={tmp_path}/frames")
    assert [item.path for item in found] == [tmp_path / "frames" / "12", tmp_path / "frames" / "7"]


def test_diving48(tmp_path):
    rows = [
        {"vid_name": "2x00-_TVQ_00000", "label": 1, "start_frame": 0, "end_frame": 99},
        {"vid_name": "kkk_00012", "label": 0, "start_frame": 0, "end_frame": 40},
    ]
    contents = {
        "Diving48_V2_train.json": json.dumps(rows),
        "Diving48_V2_test.json": json.dumps(rows[1:]),
        "Diving48_vocab.json": json.dumps([["Back", "15som", "05Twis", "FREE"], ["Back", "Dive", "NoTwis", "PIKE"]]),
        "rgb/2x00-_TVQ_00000.mp4": "",
        "rgb/kkk_00012.mp4": "",
    }
    files(tmp_path, contents)
    one = ("2x00-_TVQ_00000.mp4", "Back Dive NoTwis PIKE", "2x00-_TVQ")
    assert seen(f"diving48:{tmp_path}") == [one, ("kkk_00012.mp4", "Back 15som 05Twis FREE", "kkk")]
    assert seen(f"diving48:{tmp_path}:test") == [("kkk_00012.mp4", "Back 15som 05Twis FREE", "kkk")]
    (tmp_path / "Diving48_vocab.json").write_text(json.dumps([["Back"]]))
    with pytest.raises(ValueError, match="labels that the vocabulary with its 1 entries has not"):
        find(f"diving48:{tmp_path}")
    (tmp_path / "Diving48_vocab.json").unlink()
    assert [label for _, label, _ in seen(f"diving48:{tmp_path}")] == ["1", "0"]


# ---------------------------------------------------------------------------- UCF101, HMDB51


def ucf(folder: Path) -> Path:
    """Four classes, two splits."""
    clips = {
        "RockClimbingIndoor": ("v_RockClimbingIndoor_g08_c01", "v_RockClimbingIndoor_g01_c02"),
        "HandstandWalking": ("v_HandStandWalking_g09_c03", "v_HandStandWalking_g02_c01"),
        "Archery": ("v_Archery_g10_c01", "v_Archery_g03_c01"),
        "YoYo": ("v_YoYo_g11_c01", "v_YoYo_g04_c01"),
    }
    numbers = {name: number for number, name in enumerate(clips, 1)}
    train = "".join(f"{name}/{one}.avi {numbers[name]}\n" for name, (one, _) in clips.items())
    test = "".join(f"{name}/{two}.avi\n" for name, (_, two) in clips.items())
    lists = {
        "trainlist01.txt": train,
        "testlist01.txt": test,
        "trainlist02.txt": "Archery/v_Archery_g03_c01.avi 3\n",
        "classInd.txt": "".join(f"{number} {name}\n" for name, number in numbers.items()),
    }
    videos = {
        f"UCF-101/{name}/{clip}.avi".replace("HandStand", "Handstand"): "" for name in clips for clip in clips[name]
    }
    return files(folder, {f"ucfTrainTestlist/{name}": text for name, text in lists.items()} | videos)


def hmdb(folder: Path) -> Path:
    """Five classes, two splits."""
    contents = {}
    for name in ("climb", "handstand", "shoot_bow", "walk", "chew"):
        clips = [f"My_#20_Rules_(&Guitar)_{name}_u_cm_np1_fr_med_{n}" for n in range(3)]
        contents[f"splits/{name}_test_split1.txt"] = "".join(f"{c}.avi {u} \n" for c, u in zip(clips, (1, 2, 0)))
        contents[f"splits/{name}_test_split2.txt"] = "".join(f"{c}.avi {u} \n" for c, u in zip(clips, (0, 1, 2)))
        contents |= {f"videos/{name}/{clip}.avi": "" for clip in clips}
    return files(folder, contents)


def test_ucf101(tmp_path):
    ucf(tmp_path)
    assert seen(f"ucf101:{tmp_path}")[:2] == [
        ("v_RockClimbingIndoor_g08_c01.avi", "RockClimbingIndoor", "v_RockClimbingIndoor_g08"),
        ("v_HandstandWalking_g09_c03.avi", "HandstandWalking", "v_HandStandWalking_g09"),
    ]
    assert [label for _, label, _ in seen(f"ucf101:{tmp_path}:test")] == [
        "RockClimbingIndoor",
        "HandstandWalking",
        "Archery",
        "YoYo",
    ]
    assert seen(f"ucf101:{tmp_path}:train:2") == [("v_Archery_g03_c01.avi", "Archery", "v_Archery_g03")]
    assert seen(f"ucf101:{tmp_path}?split=2") == seen(f"ucf101:{tmp_path}:2")
    with pytest.raises(FileNotFoundError, match=r"has no testlist03\.txt, nor has a folder below it"):
        find(f"ucf101:{tmp_path}:test:3")
    (tmp_path / "ucfTrainTestlist" / "trainlist02.txt").write_text("Archery/v_Archery_g03_c01.avi 2\n")
    with pytest.raises(
        ValueError, match=r"'Archery/v_Archery_g03_c01\.avi 2' is of no class in .*, or of one with another"
    ):
        find(f"ucf101:{tmp_path}:train:2")


def test_hmdb51(tmp_path):
    hmdb(tmp_path)
    labels = ["chew", "climb", "handstand", "shoot_bow", "walk"]
    for source, number in ((":train", 0), (":test", 1), (":train:2", 1), (":test:2", 2)):
        found = find(f"hmdb51:{tmp_path}{source}")
        assert [item.label for item in found] == labels
        assert all(item.path.stem.endswith(f"{item.label}_u_cm_np1_fr_med_{number}") for item in found)
        assert all(item.path.is_file() for item in found)
    (tmp_path / "splits" / "walk_test_split1.txt").write_text("a.avi 3\n")
    with pytest.raises(ValueError, match=r"walk_test_split1\.txt: 'a\.avi 3' does not end in 0, 1 or 2"):
        find(f"hmdb51:{tmp_path}")


# ---------------------------------------------------------------------------- from one to the other


def test_domains_share_names_and_differ_by_direction(tmp_path):
    """Nothing outside the classes is asked for, so nothing of it is missing."""
    ucf(tmp_path / "UCF101"), hmdb(tmp_path / "HMDB51")
    (tmp_path / "UCF101" / "UCF-101" / "YoYo" / "v_YoYo_g11_c01.avi").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        there = [(item.label, item.path.parent.name) for item in find(f"ucf14-hmdb7:{tmp_path}")]
        assert there == [(name, name) for name in ("RockClimbingIndoor", "HandstandWalking", "Archery")]
        assert [item.path.stem for item in find(f"ucf14-hmdb7:{tmp_path}:val")][2] == "v_Archery_g03_c01"
        test = [(item.label, item.path.parent.name) for item in find(f"ucf14-hmdb7:{tmp_path}:test")]
        assert test == [("RockClimbingIndoor", "climb"), ("HandstandWalking", "handstand")]
        back = f"hmdb14-ucf7:{tmp_path}/UCF101/..:{{}}?hmdb51={tmp_path}/HMDB51"
        train = {item.label for item in find(back.format("train"))}
        assert train == {"climb", "handstand", "shoot_bow", "walk"}
        test = [(item.label, item.path.parent.name) for item in find(back.format("test"))]
        assert test == [("handstand", "HandstandWalking"), ("shoot_bow", "Archery")]


def test_class_maps_are_the_published_ones():
    for classes in (UCF14_HMDB7, HMDB14_UCF7):
        shared = [theirs for theirs in classes.values() if theirs is not None]
        assert len(classes) == 14
        assert len(set(shared)) == 7
        assert list(classes.values())[:7] == shared  # the shared labels come first
    assert UCF14_HMDB7["SoccerPenalty"] == "kick_ball"
    assert HMDB14_UCF7["kick_ball"] is None
    assert list(UCF14_HMDB7)[7] == "Punch"
    assert list(HMDB14_UCF7)[13] == "walk"


def test_all_classes_of_both_domain_pairs():
    """The lists of PATAN (Xu et al. 2021), shared classes first; the directions share different ones."""
    there = "RockClimbingIndoor/climb Diving/dive Fencing/fencing GolfSwing/golf HandstandWalking/handstand"
    there += (
        " SoccerPenalty/kick_ball PullUps/pullup Punch PushUps Biking HorseRiding Basketball Archery WalkingWithDog"
    )
    back = "shoot_bow/Archery shoot_ball/Basketball ride_bike/Biking dive/Diving fencing/Fencing golf/GolfSwing"
    back += " handstand/HandstandWalking ride_horse pullup punch pushup climb kick_ball walk"
    for text, classes in ((there, UCF14_HMDB7), (back, HMDB14_UCF7)):
        assert [(ours, theirs or "") for ours, theirs in classes.items()] == [
            tuple((name + "/").split("/")[:2]) for name in text.split()
        ]
        assert len(classes) == 14
        assert len([theirs for theirs in classes.values() if theirs]) == 7
