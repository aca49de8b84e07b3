"""Tell the user what an error of the Hugging Face hub's libraries means, with the page or the command that helps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

UNREACHABLE = ("ConnectError", "ConnectTimeout", "ReadTimeout", "ConnectionError")
"""Names of exceptions that mean that the hub was not reached. They belong to the HTTP library of the hub's client, and
vary with its version."""


@dataclass(frozen=True)
class Reason:
    """The reason why something cannot be downloaded from the hub or uploaded to it, and what the user can do."""

    found: str
    remedy: str


def hub_reason(error: BaseException, page: str, instead: str) -> Reason | None:
    """Return the reason if the hub or the network caused the error, else None.

    page: the path of the thing's page, `owner/name` or `datasets/owner/name`. instead: what to name instead of it.
    """
    from huggingface_hub import constants, errors

    url = f"{constants.ENDPOINT}/{page}"
    offline = "HF_HUB_OFFLINE is set, and the local cache does not hold it"
    rules: list[tuple[tuple[type[BaseException], ...], Reason]] = [
        ((errors.GatedRepoError,),
         Reason("the repository is gated: only users who have accepted its licence may download it",
                f"accept the licence at {url} and log in by `hf auth login` (or set HF_TOKEN)")),
        ((errors.RevisionNotFoundError,),
         Reason("the repository has no such branch, tag or commit", f"see {url}/tree/main for the existing ones")),
        ((errors.RepositoryNotFoundError,),
         Reason("there is no such repository, or it is private",
                f"check the name at {url}; for a private one log in by `hf auth login` (or set HF_TOKEN)")),
        ((errors.OfflineModeIsEnabled,), Reason(offline, offline_remedy(instead))),
        ((OSError,) if constants.is_offline_mode() else (), Reason(offline, offline_remedy(instead))),
        ((errors.LocalEntryNotFoundError, ConnectionError),
         Reason(f"{constants.ENDPOINT} cannot be reached, and the local cache does not hold it",
                f"go online once (check proxy and HF_ENDPOINT), or give {instead}")),
    ]  # fmt: skip
    unreachable = rules[-1][1]
    chain = list(causes(error))
    found = next((reason for kinds, reason in rules if any(isinstance(one, kinds) for one in chain)), None)
    return found or (unreachable if any(type(one).__name__ in UNREACHABLE for one in chain) else None)


def offline_remedy(instead: str) -> str:
    return f"unset HF_HUB_OFFLINE and run this once with a network, or give {instead}"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that caused it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def upload_reason(error: BaseException, repository: str) -> Reason | None:
    """Return the reason if the hub or the network refused an upload, else None. repository: NAME or OWNER/NAME."""
    from huggingface_hub import constants, errors

    chain = list(causes(error))
    login = "log in by `hf auth login`, or set HF_TOKEN, with a token that may write"
    unknown = Reason("you are not logged in, or the token is no longer valid", login)
    statuses = {
        401: unknown,
        403: Reason("the logged-in user may not write there", f"name a repository that is yours, or {login}"),
        404: Reason(
            f"the hub knows no such owner for this token: {repository}", f"check OWNER in OWNER/NAME, or {login}"
        ),
    }
    kinds = ((errors.LocalTokenNotFoundError, unknown),
             (errors.OfflineModeIsEnabled, Reason("HF_HUB_OFFLINE is set", "unset it")))  # fmt: skip
    found = next((reason for kind, reason in kinds if any(isinstance(one, kind) for one in chain)), None)
    refused = next((one for one in chain if isinstance(one, errors.HfHubHTTPError)), None)
    if refused is not None and found is None:
        words = str(refused).strip().partition("\n")[0] or type(refused).__name__
        found = statuses.get(refused.response.status_code, Reason(words, ""))
    if found is None and any(isinstance(one, ConnectionError) or type(one).__name__ in UNREACHABLE for one in chain):
        found = Reason(f"{constants.ENDPOINT} cannot be reached", "check the network, the proxy and HF_ENDPOINT")
    return found
