"""Manual recovery: find what failed, plan what to do, run the plan, and prove afterwards what was done.

``found`` searches, ``plan`` decides and freezes, ``run`` retries at the pace that the provider bears, ``report`` shows
what was done, and ``why`` explains a single generation. A client's methods lead here.
"""
