"""What answers and requests are made of that concern balancers on other machines."""

from __future__ import annotations

from collections.abc import Mapping

from lb.admin.openapi.parts import COUNT, FLAG, NUMBER, TEXT, Json, answer, array, described, or_null, question

JOINING_SCHEMAS: Mapping[str, Json] = {
    "JoinedBalancers": answer({
        "balancers": array(answer({
            "name": TEXT, "connected": FLAG, "address": or_null(TEXT, "From which it is connected"),
            "in_flight": or_null(COUNT, "Requests, as it said last"),
            "age_s": described(NUMBER, "Since it joined, in seconds"),
        })),
        "tokens": described(array(answer({"id": TEXT, "expires": NUMBER})), "Those that hold"),
    }),
    "InviteBalancers": question(ttl={
        "type": "string", "minLength": 2, "maxLength": 16, "default": "1h",
        "description": "For how long it lets machines join, such as 45m, 12h or 2d; 30d at most",
    }),
    "NewJoinToken": answer({
        "id": TEXT, "token": described(TEXT, "With the fingerprint of the certificate that machines go by"),
        "port": described(COUNT, "Where machines join"), "expires": described(NUMBER, "Seconds since 1970"),
    }),
    "JoinTokenRevoked": answer({"revoked": TEXT}),
    "Evicted": answer({"evicted": TEXT}),
}  # fmt: skip
