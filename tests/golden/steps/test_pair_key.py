"""The step that gives a load balancer the pair's key, run by the real Bash."""

from pathlib import Path

from model.rendering import pair_key_script
from tests.golden.steps.sandbox import Sandbox

KEY = "0123456789abcdef" * 4


def test_the_key_is_root_s_alone_and_a_second_run_changes_nothing(tmp_path: Path):
    host = Sandbox(tmp_path)
    host.put("sync", 'cp "$1" "$UNITS/synced"')
    for _ in range(2):
        done = host.run(pair_key_script(KEY))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        key = host.path("etc/ha-api/pair.key")
        assert key.read_text() == (host.units / "synced").read_text() == KEY
        assert key.stat().st_mode & 0o777 == 0o600
        assert [it.name for it in key.parent.iterdir()] == ["pair.key"]
