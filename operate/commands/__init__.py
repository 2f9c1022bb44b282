"""The commands of `./ha`, one per module: options, questions, and how results are shown."""
