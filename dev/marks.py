"""Generated text in documents, between two marks."""


def with_text(document: str, begin: str, end: str, text: str) -> str:
    """The document with a text between the two marks, which are lines; ValueError unless it has each mark once."""
    before, found_begin, rest = document.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end) or begin in rest or end in after:
        raise ValueError(f"the document needs these two lines, each once and in this order:\n{begin}{end}")
    return f"{before}{begin}{text}{end}{after}"
