"""Adapters of the port ``AiProvider``: how a provider is asked, and how its answers are judged."""
