"""What goes to the hub, without a network: a stub takes the place of its client."""

import sys

import huggingface_hub
import pytest
from runs import finetuning, saved

from tubelet.export.folder import write_folder
from tubelet.export.hub import push


class Api:
    """The hub's client, which only remembers what it was asked for."""

    token: str | None = None
    private: bool | None
    asked: list

    def create_repo(self, *args, **how):
        self.asked.append(("create", args, how))
        return huggingface_hub.RepoUrl("https://huggingface.co/my-lab/gestures")

    def model_info(self, name):
        return huggingface_hub.ModelInfo(id=name, private=self.private)

    def upload_folder(self, **how):
        names = [path.relative_to(how["folder_path"]).as_posix() for path in how["folder_path"].rglob("*")]
        names = huggingface_hub.utils.filter_repo_objects(names, allow_patterns=how["allow_patterns"])
        self.asked.append(("upload", how["repo_id"], sorted(names)))


@pytest.fixture
def api(monkeypatch):
    Api.asked, Api.private = [], True
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
    return Api


@pytest.fixture
def folder(tmp_path):
    write_folder(saved(finetuning(), tmp_path / "run")[0], tmp_path / "hf")
    return tmp_path / "hf"


@pytest.mark.parametrize("private", [True, False])
def test_a_folder_goes_up_with_nothing_else_that_lies_in_it(api, folder, private):
    (folder / "private notes.txt").write_text("mine")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.pt").write_text("mine")
    assert push(folder, "my-lab/gestures", private) == "https://huggingface.co/my-lab/gestures"
    assert api.asked == [
        ("create", ("my-lab/gestures",), {"private": private, "exist_ok": True}),
        ("upload", "my-lab/gestures", ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]),
    ]


def test_it_is_private_unless_said_otherwise(api, folder):
    push(folder, "my-lab/gestures")
    assert api.asked[0][2]["private"] is True


@pytest.mark.parametrize("there", [False, None])
def test_nothing_that_is_meant_to_be_private_goes_where_all_can_see_it(api, folder, there):
    api.private = there
    with pytest.raises(
        ValueError, match=r"is on the hub already and is not private.*Nothing was uploaded.*--no-private"
    ):
        push(folder, "my-lab/gestures")
    assert [what for what, *_ in api.asked] == ["create"]
    push(folder, "my-lab/gestures", private=False)
    assert api.asked[-1][0] == "upload"


def test_whether_all_can_see_it_is_not_guessed(api, folder, monkeypatch):
    def gone(*_):
        raise ConnectionError("no answer")

    monkeypatch.setattr(api, "model_info", gone)
    with pytest.raises(OSError, match=r"cannot push .*: no answer"):
        push(folder, "my-lab/gestures")
    assert [what for what, *_ in api.asked] == ["create"]


def test_a_run_is_not_what_belongs_there(api, tmp_path):
    run, _ = saved(finetuning(), tmp_path / "run")
    with pytest.raises(ValueError, match=r"no README.md, config.json\. First: tubelet export RUN --to hf"):
        push(run, "my-lab/gestures")
    assert not api.asked


def test_weights_that_hold_the_paths_of_a_run_do_not_go_up(api, folder, tmp_path):
    (folder / "model.safetensors").write_bytes((tmp_path / "run" / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"model\.safetensors holds the settings of a run.*--to hf"):
        push(folder, "my-lab/gestures")
    assert not api.asked


@pytest.mark.parametrize("name", ["gestures", "my-lab/", "/gestures", "a/b/c"])
def test_a_name_has_an_owner(api, folder, name):
    with pytest.raises(ValueError, match="expected OWNER/NAME"):
        push(folder, name)
    assert not api.asked


def test_without_a_token_it_says_how_to_get_one(api, folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match="hf auth login"):
        push(folder, "my-lab/gestures")
    assert not api.asked


def test_without_the_package_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'tubelet\[hub\]'"):
        push(folder, "my-lab/gestures")


def test_a_refusal_is_one_line(api, folder, monkeypatch):
    class Refusal(huggingface_hub.errors.HfHubHTTPError):
        def __init__(self, text):
            Exception.__init__(self, text)

    def refuse(*args, **how):
        raise Refusal("403 Forbidden: not your lab.\nmore")

    monkeypatch.setattr(api, "create_repo", refuse)
    with pytest.raises(OSError, match=r"cannot push .*: 403 Forbidden: not your lab\.$"):
        push(folder, "my-lab/gestures")
