"""The storage contract, by subject: the same promises in memory, over a direct connection and over the Data API."""
