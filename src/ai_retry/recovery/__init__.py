"""Manual recovery: find what failed, plan what to do, run the plan, and prove afterwards what was done.

``found`` looks, ``plan`` decides and freezes, ``run`` retries at the pace that the provider bears, ``report`` tells,
and ``why`` explains a single generation. A client's methods lead here.
"""
