"""Words and names in text, without torch: finding names, plurals and articles, loops, the names of classes."""
