"""From a picture of any size to a mask (`predictor`), through windows (`tiles`) and averaged (`tta`); masks for people
(`draw`)."""
