/// Nothing to call: this target only takes a place in the link. See no_icu.c.
