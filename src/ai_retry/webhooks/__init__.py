"""Delivers the messages that wait in the outbox to the webhook: signed, at least once."""
