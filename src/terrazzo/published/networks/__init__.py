"""The networks themselves, one file a family, by the tensor names that their publishers use."""
