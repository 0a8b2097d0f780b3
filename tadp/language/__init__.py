"""Words and names in text, without torch: finding names, plurals, articles, repetition, and lists of class names."""
