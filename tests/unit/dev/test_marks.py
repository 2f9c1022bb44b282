import pytest

from dev.marks import with_text

FIRST, LAST = "<!-- part: begin -->\n", "<!-- part: end -->\n"


def test_only_the_text_between_the_marks_is_replaced():
    document = f"# Title\n\nbefore\n\n{FIRST}old\n{LAST}\nafter\n"
    new = with_text(document, FIRST, LAST, "new\n")
    assert new == f"# Title\n\nbefore\n\n{FIRST}new\n{LAST}\nafter\n"
    assert with_text(new, FIRST, LAST, "new\n") == new


@pytest.mark.parametrize("document", ["", FIRST, LAST + FIRST, FIRST + FIRST + LAST, FIRST + LAST + LAST])
def test_a_document_without_the_marks_is_refused(document: str):
    with pytest.raises(ValueError, match="each once"):
        with_text(document, FIRST, LAST, "new\n")
