"""One module per measurement: ``measure(stack, sizes)`` returns its section of the report."""
