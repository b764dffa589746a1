"""Warnings: each is there where it should be, with its numbers and what to do, and not where all is well."""

import math

import pytest

from tubelet.report_warnings import LOOKS, TROUBLES, doubts

STEPS = 400


def card(**settings) -> dict:
    """The run.json of a pre-training of 200 videos in batches of 10 for 20 epochs: 400 steps."""
    training = {"class": "T", "epochs": 20, "batch": 10, "precision": "float32"}
    method = {"class": "tubelet.methods.masked:Masked"}
    run = {"training": training, "method": method, "optim": {"base_lr": 2.56e-3, "warmup": 2.0, "clip": None}}
    for name, value in settings.items():
        part, _, field = name.partition("__")
        run[part] = run[part] | {field: value}
    return {"run": run, "data": "videos", "fingerprint": {"videos": 200, "places": 200}}


def steps(count: int = STEPS, **functions) -> list[dict[str, float]]:
    """Lines of a good run, but for the values that `functions` make of the step."""
    good = {
        "loss": lambda step: 0.3 + math.exp(-step / 150),
        "lr": lambda step: 1e-4 * min(step / 40, 1),
        "gradient_norm": lambda step: 2.0 + step % 3,
        "data_wait": lambda step: 0.9 if step < 5 else 0.1,
        "seconds": lambda step: 0.5,
    }
    made = good | functions
    return [
        {"step": step, "epoch": step / 20} | {name: value(step) for name, value in made.items()}
        for step in range(1, count + 1)
    ]


def fired(card: dict, lines: list, notes: list[str] = [], **how) -> list[str]:  # noqa: B006 - read only
    return [doubt.says for doubt in doubts(card, lines, notes, **({"measured": True} | how))]


def test_a_good_run_is_not_doubted():
    assert fired(card(), steps()) == []
    assert fired(card(), []) == []  # nor one that has not begun
    assert fired(card(), steps(10), live=True) == []
    assert fired({}, steps(3), live=True) == []  # nor is one without a card a reason to fall over


def rarely(usual: float, high: float):
    return lambda step: high if step % 100 == 99 else usual


@pytest.mark.parametrize(
    ("settings", "functions", "said"),
    [
        ({}, {"loss": lambda step: 1.0}, "The loss did not fall: 1 at the first step, 1 over the last 2 %."),
        ({}, {"loss": lambda step: 1.0 + step / 400}, "The loss did not fall: 1 at the first step, 1.99"),
        ({}, {"loss": rarely(1.0, math.nan)}, "4 of 400 steps were not learnt from, the last at step 399"),
        ({}, {"left_out": lambda s: int(s in (70, 90))}, "2 of 400 steps were not learnt from, the last at step 90"),
        ({}, {"loss": lambda s: 0.7 + (s < 50)}, "The loss has stood still since half of the run: 0.7 then, 0.7 now."),
        ({}, {"data_wait": lambda s: 0.4}, "40 % of the time was spent waiting for videos"),
        (
            {},
            {"gradient_norm": rarely(3.0, 90.0)},
            "In 4 of 360 steps the gradient was over 10 times its median of 3, at most 90 at step 399",
        ),
        (
            {"optim__warmup": 40.0},
            {"lr": lambda s: 5e-5 * s / 400},
            "0.00256 x 10 / 256 = 0.0001; its highest was 5e-05: the warm-up of 40 epochs is as long as the run of 20",
        ),
        (
            {},
            {"validation_top1": lambda s: 70.0 if s < 200 else 60.0},
            "On validation data top1 was 70 at step 199, and is 60 at the end.",
        ),
    ],
)
def test_what_the_steps_tell(settings, functions, said):
    found = doubts(card(**settings), steps(**functions), [], measured=True)
    assert any(said in doubt.says for doubt in found), found
    assert all(doubt.do for doubt in found)


def test_what_the_run_does_already_is_not_advised():
    slow = steps(loss=lambda s: 0.7 + (s < 50), data_wait=lambda s: 0.4)
    done = card()
    done["run"] |= {
        "method": {"class": "tubelet.methods.masked:Masked", "target": {"normalise": "none"}},
        "data": {"cache": 32.0},
    }
    other = card()
    other["run"]["method"] = {"class": "tubelet.methods.masked:Masked", "target": {"normalise": "mae"}}
    said = [" ".join(doubt.do for doubt in doubts(one, slow, [], measured=True)) for one in (done, other)]
    for advice in ("--method.target.normalise none", "--data.cache"):
        assert advice not in said[0]
        assert advice in said[1]


def test_every_look_fires_in_some_test():
    """Each on the lines of the test above that is about it, and on nothing of a good run."""
    wrong = steps(
        loss=lambda s: math.nan if s == 300 else 0.7 + (s < 50),
        data_wait=lambda s: 0.4,
        gradient_norm=rarely(3.0, 90.0),
        lr=lambda s: 5e-5,
        validation_top1=lambda s: 100.0 - s / 10,
    )
    few = card() | {"fingerprint": {"videos": 20}}
    silent = [look.__name__ for look in LOOKS if not [*look(few, wrong)]]
    assert silent == ["did_not_fall"]  # it fell
    assert not [look.__name__ for look in LOOKS if [*look(card(), steps())]]


@pytest.mark.parametrize("kind", ["latent:Latent", "moco_v3:Contrastive"])
def test_a_loss_whose_aim_moves_may_rise(kind):
    rising = {"loss": lambda step: 1.0 + step / 400}
    settings = {"method__class": f"tubelet.methods.{kind}", "method__momentum": 0.99}
    assert fired(card(**settings), steps(**rising)) == []
    assert fired(card(**settings | {"method__class": "tubelet.methods.masked:Masked"}), steps(**rising))


def test_float16_may_look_for_its_scale():
    left_out = {"left_out": lambda s: int(s < 4), "loss": lambda s: 1 / s}
    assert fired(card(training__precision="float16"), steps(**left_out)) == []
    assert fired(card(), steps(**left_out))


def test_clipped_gradients_may_be_large():
    wild = {"gradient_norm": rarely(3.0, 90.0)}
    assert fired(card(optim__clip=1.0), steps(**wild)) == []


def test_a_run_that_was_stopped_says_where_and_why():
    notes = ["step 40: stopped: an older reason", "step 100: stopped: SIGINT after step 100; saved."]
    [said] = fired(card(), steps(100), notes)
    assert said == (
        "The run is not complete: 100 of 400 steps are done (25 %). It was stopped: SIGINT after step 100; saved."
    )
    [said] = fired(card(), steps(120), notes)  # it went on and was killed
    assert said == "The run is not complete: 120 of 400 steps are done (30 %)."
    assert fired(card(), steps(100), notes, live=True) == []


def test_few_videos_seen_often():
    few = card() | {"fingerprint": {"videos": 30}}
    assert fired(few, steps()) == [
        "There are 30 videos, and each is seen 20 times: what is learnt may hold for these alone."
    ]
    assert fired(few | {"run": card(training__epochs=5)["run"]}, steps(100)) == []


@pytest.mark.parametrize("kind", TROUBLES)
def test_videos_with_trouble(kind):
    notes = [f"step {number}: {number}.mp4 {kind} and more" for number in range(11)]
    [said] = fired(card(), steps(), notes)
    assert said.startswith("11 notes on 200 videos are of such as ")
    assert said.endswith(f"the first: 0.mp4 {kind} and more")
    assert fired(card(), steps(), notes[:10]) == []  # 5 % are tolerated by the reader too


def test_nothing_was_measured():
    assert "Nothing was read out" in fired(card(), steps(), measured=False)[0]
    learns_labels = card(method__class="tubelet.methods.supervised:Supervised")
    assert "It was not tested" in fired(learns_labels, steps(), measured=False)[0]
    assert len(fired(card(), steps(200), measured=False)) == 1  # of a run that is not complete, that alone
