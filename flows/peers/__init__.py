"""Our merges beside those of other tools, each in an environment of its own; nothing here is a dependency."""
