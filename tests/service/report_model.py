"""A version whose training report tries what the sandbox must prevent."""

from colour_model import publish

from model_store.provenance import DataSet, Training
from model_store.store import ModelStore

REPORT = b"""<!doctype html><html lang="en"><title>Report</title>
<style>h1 { color: rgb(1, 2, 3) }</style>
<h1>Curves</h1><img alt="" src="http://other.invalid/x.png">
<script>document.title = "a script ran"</script></html>"""


def publish_with_report(store: ModelStore, report: bytes = REPORT) -> int:
    training = Training(
        run_id="colours-1",
        command="python -m training run",
        git_commit=None,
        architecture="resnet20",
        recipe={},
        data=DataSet(name="colours", digest="0" * 64),
        seed=0,
        epochs=1,
        best_epoch=1,
        report="report.html",
    )
    return publish(store, extra={"report.html": report}, training=training)
