"""Histories in which everything happens in any order, over a storage in memory."""
