"""``ai-retry init``: looks at an app's database, proposes a binding to its tables, rehearses it and writes it.

Facts are read by ``look``; ``propose`` turns facts and answers into a description, ``write`` turns that into SQL; both
call nothing. ``interview`` puts the steps in their order.
"""
