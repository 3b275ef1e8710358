"""Many runs in one table: what each was, what it scored and cost, and which of them may be ranked with each other."""
