"""From a data set to another form of it: splits as lists, plain pairs, packs. Originals stay as they are."""
