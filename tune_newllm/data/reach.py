"""Whether a hub answers: one quick question, to which a proxy or a portal gives no hub's answer."""

import os
import threading

_PATIENCE = 2.0
"""Seconds for the hub to answer; `HF_HUB_ETAG_TIMEOUT` gives it another number."""
_SIGNS = ("X-Repo-Commit", "X-Error-Code", "X-Error-Message")
"""Headers of which a hub's answer about a dataset has one, and a proxy's or a portal's none."""


def silence(address: str) -> str | None:
    """Why no hub answers at the address of a dataset's file, None if one does."""
    from huggingface_hub import get_session, get_token

    patience = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or _PATIENCE)
    headers = {"Authorization": f"Bearer {token}"} if (token := get_token()) else {}
    why: list[str | None] = []

    def ask() -> None:
        try:
            answer = get_session().head(address, headers=headers, timeout=patience)
            known = any(sign in passed.headers for passed in (*answer.history, answer) for sign in _SIGNS)
            refused = answer.status_code != 401  # no more may come from a hub's copy that wants a login
            why.append(f"it answers {answer.status_code}, not as a hub" if refused and not known else None)
        except Exception as error:
            why.append(first_line(error))

    # In a thread, because looking up a name has no time limit of its own.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(patience)
    return why[0] if why else f"no answer in {patience:g} s, HF_HUB_ETAG_TIMEOUT allows more"


def first_line(error: Exception) -> str:
    """What an error says, or its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
