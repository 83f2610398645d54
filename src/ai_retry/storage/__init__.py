"""Adapters of the ``Storage`` port; none imports another, and only these modules know SQL or the Data API."""
