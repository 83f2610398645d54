"""Everything that is promised, tested on real parts."""
