"""From a stranger's folder to a data section: what pairs with what, what the labels mean, who goes where."""
