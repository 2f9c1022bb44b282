import pytest

from dev.documents import BEGIN, END, documents, with_part
from operate.measured import measurements

FIRST, LAST = BEGIN.format("part"), END.format("part")


def test_every_document_quotes_the_figures_of_now():
    for path, text in documents(measurements()).items():
        assert path.read_text() == text, "run `make documents`"


def test_another_figure_changes_the_documents():
    first, *others = measurements().faults
    changed = first.model_copy(update={"interruption": first.interruption._replace(median=77.7, worst=88.8)})
    texts = documents(measurements().model_copy(update={"faults": (changed, *others)}))
    assert [path.name for path, text in texts.items() if "77.7 s" in text] == ["faults.md", "README.md", "failover.md"]


def test_only_the_text_between_the_marks_is_replaced():
    document = f"# Title\n\nbefore\n\n{FIRST}old\n{LAST}\nafter\n"
    new = with_part(document, "part", "new\n")
    assert new == f"# Title\n\nbefore\n\n{FIRST}new\n{LAST}\nafter\n"
    assert with_part(new, "part", "new\n") == new


@pytest.mark.parametrize("document", ["", FIRST, LAST + FIRST, FIRST + FIRST + LAST, FIRST + LAST + LAST])
def test_a_document_without_the_marks_is_refused(document: str):
    with pytest.raises(ValueError, match="each once"):
        with_part(document, "part", "new\n")
