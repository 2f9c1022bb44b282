from dev.documents import documents
from operate.measured import measurements


def test_every_document_quotes_the_figures_of_now():
    for path, text in documents(measurements()).items():
        assert path.read_text() == text, "run `make documents`"


def test_another_figure_changes_the_documents():
    first, *others = measurements().faults
    changed = first.model_copy(update={"interruption": first.interruption._replace(median=77.7, worst=88.8)})
    texts = documents(measurements().model_copy(update={"faults": (changed, *others)}))
    assert [path.name for path, text in texts.items() if "77.7 s" in text] == ["faults.md", "README.md", "failover.md"]
