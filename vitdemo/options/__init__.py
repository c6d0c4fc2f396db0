"""What a user may ask for, checked without torch: methods, classes, maps and masks."""
