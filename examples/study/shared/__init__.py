"""Code that the commands of the study share: options, data, texts, training, runs, and the page of a table."""
