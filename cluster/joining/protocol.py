"""What a machine that joins and the supervisor say to each other: JSON lines over TLS, those of `config.link` among
them. The machine connects.

machine -> supervisor, first: ``{"type": "join", "token": id, "secret": its secret, "name": wished}`` or ``{"type":
"member", "name": name, "secret": its own}``, each with ``"boot"`` (the kernel's id of its start) and ``"changes":
true`` (it is told what is new of backend sets); then ``report``, ``want``, ``outcome`` and ``refused`` of
`config.link`, all its processes as one, ``attempts`` of each of them, ``{"type": "alive"}`` where it has nothing else
to say, and ``{"type": "call", "id": n, "method": …, "path": …, "principal": line, "peer": address, "body": text}``
supervisor -> machine, first: ``{"type": "welcome", "name": …, "secret": …, "admin_token": …}`` and what
``config`` says (the secret only where it has joined just now) or ``{"type": "refused", "why": sentence, "final":
whether it is of no use to come again}``; then all that a balancer process is told, ``loads`` and ``attempts`` again
and again, ``{"type": "config", "config": BalancerConfig, "drain_timeout": s, "standby": whether one is kept}`` (an
earlier supervisor leaves out the last two) and ``{"type": "answer", "id": n, "status": n, "sequence": text, "body":
text}``
"""

from __future__ import annotations

#: Bytes of one line of a machine: a change's body with room for how JSON writes it.
MACHINE_LINE = 1024 * 1024

#: Whoever says nothing for so long (s) is not there; each says something this often (s).
SILENCE_S, HEARTBEAT_S = 3.0, 0.5

#: How long (s) a connection may take to say who it is.
GREETING_S = 5.0
