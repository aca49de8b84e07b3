"""Look at how the Hugging Face hub is reached; the network is asked for only where that is wanted."""

from __future__ import annotations

from collections.abc import Iterator

from reflora_cli.diagnosing.finding import Finding, State, first_line


def hub(*, online: bool) -> Iterator[Finding]:
    """Yield the hub's address, the flags that keep it offline, and whether there is a token, which is never shown."""
    from huggingface_hub import constants, get_token

    yield Finding("address", constants.ENDPOINT)
    is_offline = constants.is_offline_mode()
    yield Finding("mode", "offline: HF_HUB_OFFLINE is set" if is_offline else "online")
    has_token = get_token() is not None
    yield Finding("login", "there is a token" if has_token else "no token: gated and private models need one")
    if online:
        yield reached(has_token=has_token)
    else:
        yield Finding("connection", "not tried: reflora doctor --online tries it")


def reached(*, has_token: bool) -> Finding:
    """Ask the hub something small: who the token's owner is, or for one model."""
    from huggingface_hub import HfApi

    try:
        if has_token:
            return Finding("connection", f"works, as {HfApi().whoami()['name']}")
        next(iter(HfApi().list_models(limit=1)), None)
    except Exception as error:  # the client's network library has errors of its own, which change with its version
        found = f"{type(error).__name__}: {first_line(error)}"
        remedy = "check the network, HTTPS_PROXY and HF_ENDPOINT; or the token, by `hf auth login`"
        return Finding("connection", found, State.WARNING, remedy)
    return Finding("connection", "works, without a login")
