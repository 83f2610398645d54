"""For tests of the library and of apps that use it: a clock, providers and their contract, and a storage in memory."""

from ai_retry.testing.contract import provider_contract

__all__ = ["provider_contract"]
