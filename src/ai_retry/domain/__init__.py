"""The rules of a retry, without any I/O.

Only the standard library may be imported here. What decides (``policy``), what is decided upon (``model``),
what can go wrong (``errors``), what the outside must offer (``ports``) and the order of the steps: of one retry
(``retry``), of one that is accepted for later (``queue``), and of many after an outage (``recovery``, ``pace``).
"""
