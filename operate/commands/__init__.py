"""The commands of `./ha`, one a file: options, questions, and how results are shown."""
