"""What becomes of the records of access: who got an API token, who lost one, and who was refused, in the audit trail.

Tokens are kept (`token/<id>`), so that a record that comes twice is told once, and none is changed under its id. What a
token is worth is decided by whoever is shown it; the rules X4 to X6 stand in `access`.
"""

from __future__ import annotations

from failover_orch.domain.access import AccessRefused, AccessToken, Grant, token_after
from failover_orch.domain.draft import Draft

__all__ = ["on_refused", "on_token", "spelled_grant"]

_NOBODY = "(unknown address)"


def on_token(draft: Draft, said: AccessToken) -> None:
    """A token was made or revoked."""
    after = token_after(draft.find(f"token/{said.token_id}", AccessToken), said)
    subject = f"token/{said.token_id}"
    what = "revoke access token" if said.revoked_at_ms else "create access token"
    if after.rule:
        why = f"{after.rule}: {after.why}"
        draft.refuse(after.rule, "", f"token {said.token_id}: {after.why}")
        draft.audit(subject, what, "refused", by=said, why=why)
    if not after.changed or after.token is None:
        return
    draft.keep(subject, after.token)
    draft.audit(
        subject,
        what,
        "accepted",
        by=said,
        name=said.name,
        grants="; ".join(spelled_grant(grant) for grant in said.grants),
        expires_at_ms=str(said.expires_at_ms),
    )


def on_refused(draft: Draft, said: AccessRefused) -> None:
    """Calls were refused at the service."""
    draft.audit(
        said.who or said.address or _NOBODY,
        said.what,
        "refused",
        by=None,
        actor=said.who,
        why=said.why,
        address=said.address,
        times=str(said.times),
        since_ms=str(said.since_ms),
        until_ms=str(said.at_ms),
    )


def spelled_grant(grant: Grant) -> str:
    """A grant as people read it: `OPERATOR for site dr, plan erp`."""
    extent = [*(f"site {site}" for site in grant.sites), *(f"plan {plan}" for plan in grant.plans)]
    return f"{grant.role} for {', '.join(extent)}" if extent else grant.role.value
