"""Many runs from one recipe: which they are, what they are called, and how a search chooses them."""
