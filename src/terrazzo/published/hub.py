"""The Hugging Face hub: a repository's files as a folder, and a folder's files as a repository."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from terrazzo.base import InputError
from terrazzo.published.download import offline
from terrazzo.published.licences import gated

TOKEN = "HF_TOKEN"
"""Environment variable of the token; no option takes one, so that none ends in a shell's history or a log."""

SAFE = ["*.json", "*.safetensors"]
PICKLED = ["*.bin", "*.pth", "*.pt"]
"""Fetched only where there is nothing in SAFE's formats; read as tensors and plain data like every foreign file."""


def pull(repo: str) -> Path:
    """The folder of a repository's weights and descriptions, in the hub's own cache.

    Args:
        repo: OWNER/NAME, or OWNER/NAME@REVISION: a branch, a tag or a commit.

    Raises:
        InputError: there is no such repository or revision, it asks for an agreement or a token, it holds no weights,
            or the hub cannot be reached and the cache has nothing.
    """
    from huggingface_hub import snapshot_download  # its import takes a moment, and needs of it are rare

    name, _, revision = repo.partition("@")
    _check_name(name)
    with _sentences(name):
        for patterns in (SAFE, [*SAFE, *PICKLED]):
            folder = Path(
                snapshot_download(
                    name,
                    revision=revision or None,
                    allow_patterns=patterns,
                    local_files_only=offline(),
                    token=_token(),
                )
            )
            if any(folder.rglob("*.safetensors")):
                break
    if not any(path.match(pattern) for path in folder.rglob("*") for pattern in ("*.safetensors", *PICKLED)):
        raise InputError(f"hf:{name} holds no weights ({', '.join(('*.safetensors', *PICKLED))})")
    return folder


def push(files: dict[str, Path | bytes], repo: str, *, private: bool = False, message: str) -> str:
    """Make `files` (by their names there) one commit of a repository, which is made if need be; its address.

    Raises:
        InputError: there is no token, it does not allow this, or the hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    _check_name(repo)
    token = _token()
    if token is None:
        raise InputError(f"no token: set the environment variable {TOKEN} to one that may write to {repo}")
    if offline():
        raise InputError("TERRAZZO_OFFLINE or HF_HUB_OFFLINE forbids the net; unset it to push")
    api = HfApi(token=token, library_name="terrazzo")
    with _sentences(repo):
        page = api.create_repo(repo, private=private, exist_ok=True)
        additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()]
        api.create_commit(repo, additions, commit_message=message)
    return str(page)


def _token() -> str | None:
    return os.environ.get(TOKEN, "").strip() or None


def _check_name(repo: str) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise InputError(f"{repo!r} is no repository of the hub; expected OWNER/NAME")


@contextmanager
def _sentences(repo: str) -> Iterator[None]:
    """What the hub's library raises, as errors for people."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # the base error of its HTTP library, which is another one in other versions
    transport = cast("type[Exception]", HfHubHTTPError.__mro__[1])
    where = f"{constants.ENDPOINT}/{repo}"
    try:
        yield
    except GatedRepoError:
        asked = gated(repo)
        terms = f" ({asked.name}, {asked.why})" if asked else ""
        raise InputError(
            f"{repo} asks for an agreement first{terms}: agree at {where}, then set {TOKEN} to a token of that account"
        ) from None
    except RepositoryNotFoundError:
        raise InputError(f"{where} is not there, or private: then set {TOKEN} to a token that may read it") from None
    except RevisionNotFoundError:
        raise InputError(f"{where} has no such branch, tag or commit") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = f"; does the token in {TOKEN} allow it?" if status in (401, 403) else ""
        raise InputError(f"{where} answers {status} {error.response.reason_phrase}{hint}") from None
    except LocalEntryNotFoundError:
        forbidden = "TERRAZZO_OFFLINE or HF_HUB_OFFLINE forbids the net"
        why = forbidden if offline() else f"{constants.ENDPOINT} does not answer"
        cache = constants.HF_HUB_CACHE
        raise InputError(f"{repo} is not in the hub's cache here ({cache}), and {why}") from None
    except HFValidationError as error:
        raise InputError(f"{repo!r} is no repository of the hub: {error}") from None
    except RuntimeError as error:  # of an upload; what happened is its cause
        raise InputError(f"{where}: {error} {error.__cause__ or ''}".rstrip()) from None
    except (transport, OSError) as error:
        raise InputError(f"{where}: {error or type(error).__name__}") from None
