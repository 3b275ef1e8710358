"""From a picture of any size to a mask (`predictor`), and what people look at: masks (`draw`) and scores (`charts`)."""
