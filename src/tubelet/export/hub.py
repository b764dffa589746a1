"""Weights to the Hugging Face hub: a folder as `tubelet export --to hf` writes it."""

from pathlib import Path

from tubelet.weights.archive import from_safetensors
from tubelet.weights.hub import needed

# What belongs to a model; nothing else of a folder leaves the machine.
KEPT = ("README.md", "config.json", "preprocessor_config.json", "model.safetensors", "*.onnx", "*.onnx.data", "*.pt2")


def push(folder: Path | str, name: str, private: bool = True) -> str:
    """Puts a folder on the hub as the model `name`, "OWNER/NAME"; its address.

    A repository that is there gets a new version, and stays as public as it was; into one that is public nothing goes
    that is meant to be `private`. The token is that of `hf auth login`, or in HF_TOKEN.

    Raises:
        ValueError: no folder that was exported, no such name, huggingface_hub is missing, there is no token, or the
            repository is public.
        OSError: the hub cannot be reached, or refuses.
    """
    folder = Path(folder)
    missing = [file for file in ("README.md", "config.json", "model.safetensors") if not (folder / file).is_file()]
    if missing:
        raise ValueError(
            f"{folder} is no exported model: it has no {', '.join(missing)}. "
            "First: tubelet export RUN --to hf --out DIR"
        )
    if not all(name.partition("/")) or name.count("/") != 1:
        raise ValueError(f"{name!r} is no name on the hub; expected OWNER/NAME, as in my-lab/videomae-gestures")
    if "run" in from_safetensors(folder / "model.safetensors")[1]:
        raise ValueError(
            f"{folder / 'model.safetensors'} holds the settings of a run, with the paths in them. Push what "
            "tubelet export RUN --to hf --out DIR writes"
        )
    hub = needed()
    api = hub.HfApi()
    if api.token is None and hub.get_token() is None:
        raise ValueError("no token for the hub; get one with write access from its settings, then: hf auth login")
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        # asked once it is there: `private` above is for new ones, and does not change one that was there
        seen_by_all = private and api.model_info(name).private is not True
        if not seen_by_all:
            api.upload_folder(
                repo_id=name, folder_path=folder, allow_patterns=list(KEPT), commit_message="Written by tubelet"
            )
    except hub.errors.HFValidationError as error:
        raise ValueError(f"{name!r} is no name on the hub: {error}") from error
    except Exception as error:  # refusals and broken connections have no class in common over its versions
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(f"cannot push {folder} to {name}: {why}") from error
    if seen_by_all:
        raise ValueError(
            f"{name} is on the hub already and is not private: everybody would see {folder}. Nothing was uploaded; "
            "push to another name, make it private in its settings, or mean it: --no-private"
        )
    return str(address)
