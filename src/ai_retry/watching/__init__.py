"""Makes events of what loops do: see ``loop_events``."""
