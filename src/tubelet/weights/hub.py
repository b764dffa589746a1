"""Weights from the Hugging Face hub, as hub:OWNER/NAME: data only, never code, kept in the cache of the hub."""

from pathlib import Path
from typing import Any

SCHEME = "hub:"
CONFIGS = ("config.json", "preprocessor_config.json", "video_preprocessor_config.json")
# What a repository's weights may be called; the second kind is fetched only where there is none of the first.
SAFE = ("model.safetensors", "encoder.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
SHARDS = {SAFE: "model-?????-of-?????.safetensors", PICKLED: "pytorch_model-?????-of-?????.bin"}


def on_hub(path: Path | str) -> bool:
    """Whether a path names something on the hub."""
    return str(path).startswith(SCHEME)


def fetched(path: Path | str) -> Path:
    """The file of weights in the cache of hub:OWNER/NAME, with the configs beside it; any other path as it is.

    hub:OWNER/NAME/FILE is a certain file of a repository, and @REVISION at the end a branch, a tag or a commit. What is
    in the cache already is not fetched again, and will do where the hub cannot be reached.

    Raises:
        ValueError: no such name, or huggingface_hub is missing.
        FileNotFoundError: no such repository or revision, or no weights in it.
        OSError: the hub cannot be reached, or refuses.
    """
    if not on_hub(path):
        return Path(path)
    name, _, revision = Path(path).as_posix().removeprefix(SCHEME).partition("@")
    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    if not owner or not repository or str(path).endswith("@"):
        raise ValueError(
            f"{str(path)!r} is no name on the hub; expected hub:OWNER/NAME, or hub:OWNER/NAME/FILE for one file of it; "
            "@REVISION may follow"
        )
    repository = f"{owner}/{repository}"
    if file:
        beside = [Path(file).with_name(config).as_posix() for config in CONFIGS]
        found = snapshot(repository, revision, [file, *beside]) / file
        if not found.is_file():
            raise FileNotFoundError(
                f"{repository} on the hub has no file {file}; see https://huggingface.co/{repository}/tree/main"
            )
        return found
    for kind, shards in SHARDS.items():
        folder = snapshot(repository, revision, [*CONFIGS, *kind, shards])
        if there := [folder / one for one in kind if (folder / one).is_file()]:
            return there[0]
    raise FileNotFoundError(
        f"{repository} has none of {', '.join((*SAFE, *PICKLED))} (without a network: what was fetched before); see "
        f"https://huggingface.co/{repository}/tree/main and name the file: {SCHEME}{repository}/FILE"
    )


def snapshot(repository: str, revision: str, patterns: list[str]) -> Path:
    """The folder of the cache that has those files of a repository that fit the patterns.

    Raises:
        ValueError, FileNotFoundError, OSError: as `fetched` says.
    """
    hub = needed()
    page = f"https://huggingface.co/{repository}"
    try:
        return Path(hub.snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
    except hub.errors.GatedRepoError as error:
        raise OSError(f"{repository} is gated: accept its conditions at {page}, then: hf auth login") from error
    except hub.errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"no model {repository} on the hub; or it is private, and there is no token that may read it: hf auth login"
        ) from error
    except hub.errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{repository} on the hub has no revision {revision!r}; see {page}") from error
    except hub.errors.HFValidationError as error:
        raise ValueError(f"{repository!r} is no name on the hub: {error}") from error
    except Exception as error:  # broken connections have no class in common over its versions
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(
            f"cannot fetch {repository} from the hub: {why}. Where there is a network: hf download {repository} "
            "--local-dir DIR; then give DIR"
        ) from error


def needed() -> Any:
    """huggingface_hub.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError("the hub needs huggingface_hub, which is not installed: pip install 'tubelet[hub]'") from error
    return huggingface_hub
